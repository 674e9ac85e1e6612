"""Which replicas go when a stage has more than it needs."""

from collections.abc import Iterator, Sequence

from orchestrator.core.changes import PlaceReason, Remove
from orchestrator.core.groups import EPSILON, PARTNERS, Group, Layout
from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.core.topology import Topology
from stages.types import Stage

Member = tuple[float, PlacedReplica]
"""A replica after its weight."""

_ORDER = (*PARTNERS, Stage.ENCODE)


def scale_in(layout: Layout, topology: Topology) -> list[Remove]:
    """Take what is superfluous out of the layout; return it.

    A stage gives up replicas only while it has more than its target by the weight of its heaviest one.
    So what was just created for want of a smaller piece is not removed again, and no removal leaves less
    than the target.
    """
    return [
        remove for stage in _ORDER if stage in layout.targets for remove in _Shrink(layout, topology, stage)
    ]


class _Shrink:
    """Removals of one stage: each time the best of the groups' best."""

    def __init__(self, layout: Layout, topology: Topology, stage: Stage) -> None:
        self._layout = layout
        self._topology = topology
        self._stage = stage
        self._sorted = self._mixed = False

    def __iter__(self) -> Iterator[Remove]:
        layout, stage = self._layout, self._stage
        while layout.superfluous(stage):
            if not self._sorted:
                self._sort()
            group = min(self._with_members(), key=self._group_order)
            reason = self._reason(group)
            worth, replica = group.members[stage].pop()
            layout.add(group, stage, -worth)
            yield Remove(replica_id=replica.replica_id, service=replica.service, stage=stage, reason=reason)

    def _sort(self) -> None:
        self._sorted = True
        groups = self._layout.groups.values()
        scarcities = {
            self._scarcity(replica) for group in groups for _, replica in group.members[self._stage]
        }
        self._mixed = len(scarcities) > 1
        for group in groups:
            group.members[self._stage].sort(key=self._order, reverse=True)  # the next to go is last

    def _with_members(self) -> Sequence[Group]:
        return [group for group in self._layout.groups.values() if group.members[self._stage]]

    def _order(self, member: Member) -> tuple[int, int, float, str]:
        """Not started first, then the scarcest, then the least work; the lowest id of equals."""
        _, replica = member
        return _life(replica), -self._scarcity(replica), replica.pending_units, replica.replica_id

    def _group_order(self, group: Group) -> tuple[int, bool, int, int, float, str]:
        life, scarcity, pending, name = self._order(group.members[self._stage][-1])
        return life, self._orphans(group), -self._excess(group), scarcity, pending, name

    def _scarcity(self, replica: PlacedReplica) -> int:
        """Return the grade of the replica's domain; the worst for a node that is gone."""
        home = self._topology.domain_of(replica.node_id)
        return home.scarcity if home else 1 << 30

    def _orphans(self, group: Group) -> bool:
        """Whether this would leave the stage's partner without use for it, and the partner stays."""
        layout, stage = self._layout, self._stage
        if stage is Stage.ENCODE or len(group.members[stage]) > 1:
            return False
        (partner,) = [other for other in PARTNERS if other is not stage]
        spare = layout.capacity[partner] - layout.targets.get(partner, 0.0)
        return group.capacity[partner] > max(0.0, spare) + EPSILON

    def _excess(self, group: Group) -> int:
        """Return how many whole replicas the group has above what its partners make use of."""
        layout = self._layout
        others = [s for s in PARTNERS if s is not self._stage and layout.targets.get(s, 0.0) > 0.0]
        if not others:
            return 0
        used = min([layout.share(group, other) for other in others])
        return max(0, int(group.capacity[self._stage] - used * layout.targets[self._stage] + EPSILON))

    def _reason(self, group: Group) -> PlaceReason:
        _, replica = group.members[self._stage][-1]
        if _life(replica) < 2:
            return PlaceReason.NOT_STARTED
        if self._excess(group) > min([self._excess(other) for other in self._with_members()]):
            return PlaceReason.UNBALANCED
        return PlaceReason.SCARCEST if self._mixed else PlaceReason.LEAST_WORK


def _life(replica: PlacedReplica) -> int:
    return {ReplicaState.PENDING: 0, ReplicaState.STARTING: 1}.get(replica.state, 2)
