"""Several clusters as one for the controller: the name of its cluster leads the name of everything in it.

What is in one cluster never knows of the others: whatever is asked of it is asked in its own words.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from orchestrator.core.observed import Node
from orchestrator.core.pools import Admit, Inform, Move, Pod, Scale
from orchestrator.ports import (
    Cluster,
    ClusterUnavailable,
    ClusterView,
    RegisteredReplica,
    SignalSource,
    Snapshot,
)

log = logging.getLogger(__name__)

AWAY_S = 300.0
"""How long a cluster that cannot be seen counts as it was. Kubernetes gives a silent node as long."""
ANSWER_S = 10.0
"""How long one look waits; what comes later is seen by the next."""

_SEPARATOR = ":"
"""No name of Kubernetes has one, nor an order."""


class _Seen(NamedTuple):
    """A cluster as it was last seen."""

    view: ClusterView
    at_s: float


class Federation:
    """`orchestrator.ports.Cluster` made of several, with their names as widest level of every domain.

    One that cannot be seen stays as it was for `AWAY_S`: its pods count, its nodes take nothing new, and the
    view is not complete, so that nothing shrinks. After that its pods count as leaving, so that others take
    their place elsewhere. No step goes to it meanwhile; a step that fails is left to a later decision, and
    holds up no other cluster.

    Args:
        members: By name; names are DNS labels.
    """

    def __init__(self, members: Mapping[str, Cluster]) -> None:
        self._members = {name: members[name] for name in sorted(members)}
        self._threads = ThreadPoolExecutor(len(members), "cluster")
        self._asked: dict[str, Future[ClusterView]] = {}
        self._seen: dict[str, _Seen] = {}
        self._away: set[str] = set(members)
        self._begun_s: float | None = None

    def look(self, now_s: float) -> ClusterView:
        """See `Cluster.look`.

        Raises:
            ClusterUnavailable: None can be seen, or one has not been seen yet and had not `AWAY_S` to appear:
                what runs there would be started elsewhere a second time.
        """
        self._begun_s = now_s if self._begun_s is None else self._begun_s
        for name, view in self._ask(now_s).items():
            self._seen[name] = _Seen(view, now_s)
        unknown = self._members.keys() - self._seen.keys()
        if unknown and now_s - self._begun_s < AWAY_S:
            raise ClusterUnavailable(f"not seen yet: {', '.join(sorted(unknown))}")
        if self._away == self._members.keys():
            raise ClusterUnavailable("no cluster can be seen")
        return _sum([self._part(name, seen, now_s) for name, seen in sorted(self._seen.items())])

    def admit(self, admit: Admit, now_s: float) -> None:
        """See `Cluster.admit`."""
        cluster, pod = _local(admit.pod)
        place = admit.create
        own = replace(place, node_id=_local(place.node_id)[1], domain=place.domain[1:])
        self._step(cluster, lambda member: member.admit(Admit(pod=pod, create=own), now_s))

    def move(self, move: Move, now_s: float) -> None:
        """See `Cluster.move`."""
        cluster, pod = _local(move.pod)
        own = Move(pod=pod, stands_for=_local(move.stands_for)[1])
        self._step(cluster, lambda member: member.move(own, now_s))

    def inform(self, inform: Inform) -> None:
        """See `Cluster.inform`."""
        cluster, pod = _local(inform.pod)
        self._step(cluster, lambda member: member.inform(Inform(pod=pod, domain=inform.domain[1:])))

    def scale(self, scale: Scale) -> None:
        """See `Cluster.scale`."""
        victims = tuple(_local(victim)[1] for victim in scale.victims)
        own = replace(scale, pool=scale.pool._replace(cluster=""), victims=victims)
        self._step(scale.pool.cluster, lambda member: member.scale(own))

    def _ask(self, now_s: float) -> Mapping[str, ClusterView]:
        """Return what is there of those that answer in time; the others are away."""
        for name, member in self._members.items():
            if name not in self._asked:
                self._asked[name] = self._threads.submit(partial(member.look, now_s))
        done, _ = wait(self._asked.values(), ANSWER_S)
        answers: dict[str, ClusterView] = {}
        for name in [name for name, asked in self._asked.items() if asked in done]:
            try:
                answers[name] = self._asked.pop(name).result()
            except ClusterUnavailable as error:
                log.warning("cluster %s cannot be seen: %s", name, error)
        for name in self._asked:
            log.warning("cluster %s has not answered for %g s", name, ANSWER_S)
        self._away = set(self._members) - set(answers)
        return answers

    def _part(self, name: str, seen: _Seen, now_s: float) -> ClusterView:
        """Return what a cluster adds to the whole."""
        view = _named(name, seen.view)
        if name not in self._away:
            return view
        return _held(view) if now_s - seen.at_s < AWAY_S else _given_up(view)

    def _step(self, cluster: str, step: Callable[[Cluster], None]) -> None:
        if cluster in self._away:
            return
        try:
            step(self._members[cluster])
        except ClusterUnavailable as error:
            log.warning("cluster %s is left as it is: %s", cluster, error)
            self._away.add(cluster)


class MemberSource:
    """`orchestrator.ports.SignalSource` of one cluster of a federation.

    Args:
        cluster: Its name.
        source: Where its gateways and replicas say how they are.
    """

    def __init__(self, cluster: str, source: SignalSource) -> None:
        self._cluster = cluster
        self._source = source

    async def snapshot(self) -> Snapshot:
        """See `SignalSource.snapshot`."""
        seen = await self._source.snapshot()
        return replace(
            seen,
            replicas=tuple(_replica(self._cluster, entry) for entry in seen.replicas),
            gateways={_id(self._cluster, id_): _report(self._cluster, r) for id_, r in seen.gateways.items()},
        )


def _replica(cluster: str, entry: RegisteredReplica) -> RegisteredReplica:
    return replace(entry, replica=replace(entry.replica, replica_id=_id(cluster, entry.replica.replica_id)))


def _report(cluster: str, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a gateway's report with another name of its counter: those of two clusters are never one."""
    count = report.get("count")
    if not isinstance(count, Mapping) or "counter" not in count:
        return report
    return {**report, "count": {**count, "counter": _id(cluster, count["counter"])}}


def _named(cluster: str, view: ClusterView) -> ClusterView:
    """Return a cluster's view with its name before every other."""
    return replace(
        view,
        counts={pool._replace(cluster=cluster): count for pool, count in view.counts.items()},
        pods=tuple(_pod(cluster, pod) for pod in view.pods),
        nodes=tuple(_node(cluster, node) for node in view.nodes),
        orders={_id(cluster, pool): most for pool, most in view.orders.items()},
        inform=tuple(
            Inform(pod=_id(cluster, each.pod), domain=(cluster, *each.domain)) for each in view.inform
        ),
    )


def _pod(cluster: str, pod: Pod) -> Pod:
    pool = pod.pool._replace(cluster=cluster)
    return replace(pod, name=_id(cluster, pod.name), pool=pool, node_id=_id(cluster, pod.node_id))


def _node(cluster: str, node: Node) -> Node:
    return replace(
        node,
        node_id=_id(cluster, node.node_id),
        domain=(cluster, *node.domain),
        node_pool=_id(cluster, node.node_pool),
    )


def _held(view: ClusterView) -> ClusterView:
    """Return a view as it counts while its cluster is away: nothing can be done there."""
    nodes = tuple(replace(node, ready=False) for node in view.nodes if not node.node_pool)
    return ClusterView(counts={}, pods=view.pods, nodes=nodes, complete=False)


def _given_up(view: ClusterView) -> ClusterView:
    """Return what is left of a view that is too old: names of groups, which nobody else may take."""
    return ClusterView(counts={}, pods=tuple(replace(pod, leaving=True, node_id="") for pod in view.pods))


def _sum(views: list[ClusterView]) -> ClusterView:
    return ClusterView(
        counts={pool: count for view in views for pool, count in view.counts.items()},
        pods=tuple(pod for view in views for pod in view.pods),
        nodes=tuple(node for view in views for node in view.nodes),
        orders={pool: most for view in views for pool, most in view.orders.items()},
        inform=tuple(each for view in views for each in view.inform),
        complete=all(view.complete for view in views),
    )


def _id(cluster: str, name: str) -> str:
    """Return a name with its cluster's before it; no name stays none."""
    return f"{cluster}{_SEPARATOR}{name}" if name else ""


def _local(name: str) -> tuple[str, str]:
    """Return what `_id` was made of."""
    cluster, _, own = name.partition(_SEPARATOR)
    return cluster, own
