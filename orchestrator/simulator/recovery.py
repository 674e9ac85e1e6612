"""What a service does over when replicas and nodes are lost; the gateway's rules of recovery.

A dead replica's jobs are made again by the stage that made them. A KV cache dies with the replica that
holds it, and its request begins again at its prompt, with the tokens that it has already said; a KV cache
that prefill still holds is pulled by another decode. Embeddings lie in the node's blob store: they outlive
their replica and are encoded again if their node is lost.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from orchestrator.simulator.hop import Embedding, Hop, Request
from orchestrator.simulator.journey import Journey
from orchestrator.simulator.replica import SimReplica
from stages.types import Stage

LostAt = Mapping[str, float]
"""When each node was last lost, by its id, seconds of the virtual clock."""


def recover(
    journey: Journey, dead: Sequence[SimReplica], lost_nodes: Collection[str], lost_at: LostAt
) -> None:
    """Let every request that lost something go back to the stage that has to make it again.

    Args:
        journey: Of the service's requests.
        dead: Its replicas that died at this moment; they are in no pool any more.
        lost_nodes: Nodes whose blob stores are gone at this moment.
        lost_at: Of those and all lost before.
    """
    again = [(hop, replica) for replica in dead for hop in _taken_from(replica)]
    stranded = _without_kv(journey, dead) + (_without_embeddings(journey, lost_at) if lost_nodes else [])
    for hop, replica in again:
        _redo(journey, hop, replica, dead, lost_at)
    for hop in stranded:
        _restart(journey, hop.request, lost_at)
    for request in _encoding(journey) if lost_nodes else ():
        _push_images(journey, request, _forget_embeddings(request, lost_at))


def is_gone(embedding: Embedding, lost_at: LostAt) -> bool:
    """Return whether the node of an embedding was lost since it was made."""
    lost_s = lost_at.get(embedding.node_id)
    return lost_s is not None and embedding.made_s <= lost_s


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


def _redo(
    journey: Journey, hop: Hop, replica: SimReplica, dead: Collection[SimReplica], lost_at: LostAt
) -> None:
    request = hop.request
    if request.ended:
        return
    pool = journey.queues.pool_of[replica.stage]
    if pool.only_encodes:
        journey.push_images(request, [hop.content])
    elif pool.stage is Stage.DECODE and journey.handover.source(request) not in (None, *dead):
        journey.push_decode(request)
    else:
        _restart(journey, request, lost_at)


def _restart(journey: Journey, request: Request, lost_at: LostAt) -> None:
    """Begin again at the prompt, or at the images whose embeddings are gone."""
    journey.handover.forget(request)
    images = _forget_embeddings(request, lost_at)
    if images:
        _push_images(journey, request, images)
    else:
        journey.push_prompt(request)


def _push_images(journey: Journey, request: Request, contents: Sequence[str]) -> None:
    """Let images that are to be encoded again wait for it."""
    if contents:
        request.images_left += len(contents)
        journey.push_images(request, contents)


def _without_kv(journey: Journey, dead: Sequence[SimReplica]) -> list[Hop]:
    """Take out decodes that wait for, or are pulling, a KV cache that a dead replica held."""
    return _take_out(journey, Stage.DECODE, lambda hop: journey.handover.source(hop.request) in dead)


def _without_embeddings(journey: Journey, lost_at: LostAt) -> list[Hop]:
    """Take out prompts that wait for, or are pulling, embeddings that lay on a lost node."""
    return _take_out(
        journey, Stage.PREFILL, lambda hop: any(is_gone(each, lost_at) for each in hop.request.embeddings_at)
    )


def _take_out(journey: Journey, stage: Stage, lacks: Callable[[Hop], bool]) -> list[Hop]:
    """Take out hops of a stage's pool that have not begun and lack something."""
    pool = journey.queues.pool_of[stage]
    taken = pool.withdraw(lambda hop: not hop.request.ended and lacks(hop))
    for replica in list(pool.replicas):
        for hop in [hop for hop in replica.running if not hop.begun and lacks(hop)]:
            _cancel(journey, hop, replica)
            taken.append(hop)
    return taken


def _cancel(journey: Journey, hop: Hop, replica: SimReplica) -> None:
    """Take a hop that has not begun off its replica."""
    hop.attempt += 1
    replica.give_back(hop)
    replica.free_kv(hop)
    journey.tell_if_idle(replica)


def _encoding(journey: Journey) -> list[Request]:
    """Return the requests that have images to encode, each once."""
    pool = journey.pools[0]
    if not pool.only_encodes:
        return []
    hops = [*pool.waiting(), *[hop for replica in pool.replicas for hop in replica.running]]
    return list(dict.fromkeys(hop.request for hop in hops if not hop.request.ended))


def _forget_embeddings(request: Request, lost_at: LostAt) -> list[str]:
    """Forget the embeddings that are gone; return the names of their images."""
    gone = [each.content for each in request.embeddings_at if is_gone(each, lost_at)]
    request.embeddings_at = [each for each in request.embeddings_at if not is_gone(each, lost_at)]
    return gone
