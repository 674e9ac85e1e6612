"""What a service does over when replicas and nodes are lost; the gateway's rules of recovery.

A dead replica's jobs are made again by the stage that made them. A KV cache dies with the replica that
holds it, and its request begins again at its prompt, with the tokens that it has already said; a KV cache
that prefill still holds is pulled by another decode. Embeddings lie in the node's blob store: they outlive
their replica and are encoded again if their node is lost.
"""

from collections.abc import Callable, Collection, Sequence

from orchestrator.simulator.hop import Hop, Request
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.service import Service
from stages.types import Stage


def recover(service: Service, dead: Sequence[SimReplica], lost_nodes: Collection[str], now_s: float) -> None:
    """Let every request that lost something go back to the stage that has to make it again.

    Args:
        service: Whose.
        dead: Its replicas that died at this moment; they are in no pool any more.
        lost_nodes: Nodes whose blob stores are gone.
        now_s: The moment.
    """
    service.node_lost_s.update(dict.fromkeys(lost_nodes, now_s))
    again = [hop for replica in dead for hop in _taken_from(replica)]
    stranded = _without_kv(service, dead) + (_without_embeddings(service) if lost_nodes else [])
    for hop in again:
        _redo(service, hop, dead)
    for hop in stranded:
        _restart(service, hop.request)
    for request in _encoding(service) if lost_nodes else ():
        service.push_images(request, _forget_embeddings(service, request))


def _taken_from(replica: SimReplica) -> list[Hop]:
    """Stop a replica and return what it had, in the order that it came."""
    hops = list(replica.running)
    for hop in hops:
        left = replica.engine.steps_left(hop)
        if left is not None:
            # A token that is not whole is not said; the last one would have ended the request.
            said = hop.request.output_tokens - max(1, left)
            hop.request.said = max(hop.request.said, said)
        hop.attempt += 1
    replica.engine.stop()
    replica.running.clear()
    return hops


def _redo(service: Service, hop: Hop, dead: Collection[SimReplica]) -> None:
    request = hop.request
    if request.ended or hop.replica is None:
        return
    pool = service.pool_of[hop.replica.stage]
    if pool.stages == (Stage.ENCODE,):
        service.push_image(request, hop.content)
    elif pool.stage is Stage.DECODE and request.prefilled_on not in (None, *dead):
        service.push_decode(request)
    else:
        _restart(service, request)


def _restart(service: Service, request: Request) -> None:
    """Begin again at the prompt, or at the images whose embeddings are gone."""
    request.prefilled_on = request.prefill_hop = None
    images = _forget_embeddings(service, request)
    if images:
        service.push_images(request, images)
    else:
        service.push_prompt(request)


def _without_kv(service: Service, dead: Sequence[SimReplica]) -> list[Hop]:
    """Take out decodes that wait for, or are pulling, a KV cache that a dead replica held."""
    pool = service.pool_of[Stage.DECODE]
    return _take_out(service, pool.stages[0], lambda hop: hop.request.prefilled_on in dead)


def _without_embeddings(service: Service) -> list[Hop]:
    """Take out prompts that wait for, or are pulling, embeddings that lay on a lost node."""
    return _take_out(
        service,
        service.pool_of[Stage.PREFILL].stage,
        lambda hop: any(service.is_gone(embedding) for embedding in hop.request.embeddings_at),
    )


def _take_out(service: Service, stage: Stage, lacks: Callable[[Hop], bool]) -> list[Hop]:
    """Take out hops of a stage that have not begun and lack something."""
    pool = service.pool_of[stage]
    taken = pool.withdraw(lambda hop: not hop.request.ended and lacks(hop))
    for replica in list(pool.replicas):
        for hop in [hop for hop in replica.running if not hop.begun and lacks(hop)]:
            service.cancel(hop, replica)
            taken.append(hop)
    return taken


def _encoding(service: Service) -> list[Request]:
    """Return the requests that have images to encode, each once."""
    pool = service.pools[0]
    if pool.stages != (Stage.ENCODE,):
        return []
    hops = [*pool.waiting(), *[hop for replica in pool.replicas for hop in replica.running]]
    return list(dict.fromkeys(hop.request for hop in hops if not hop.request.ended))


def _forget_embeddings(service: Service, request: Request) -> list[str]:
    """Forget the embeddings that are gone; return the names of their images."""
    gone = [each.content for each in request.embeddings_at if service.is_gone(each)]
    request.embeddings_at = [each for each in request.embeddings_at if not service.is_gone(each)]
    return gone
