"""A service's deployment groups while its replicas are being placed."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property

from orchestrator.core.cover import Cover, covers
from orchestrator.core.hardware import Option, options, weight
from orchestrator.core.observed import PlacedReplica, ReplicaState
from orchestrator.core.planned import ControlPolicy, EdgeLevels, ScalePlan
from orchestrator.core.topology import Domain, Path, Topology
from stages.types import Stage

PARTNERS = (Stage.PREFILL, Stage.DECODE)
"""Stages of which a group without one is of no use."""
EPSILON = 1e-6
"""Capacity is summed in floating point; less than this of a replica is nothing."""

Needs = Mapping[Stage, float]
"""Capacity by stage, in replicas of the stage's first hardware class, > 0."""


def stage_levels(edges: EdgeLevels) -> dict[Stage, int]:
    """Return how many leading levels each stage's replicas share with the prefill replicas of their group."""
    return {
        Stage.ENCODE: edges.encode_prefill,
        Stage.PREFILL: max(edges.encode_prefill, edges.prefill_decode),
        Stage.DECODE: edges.prefill_decode,
    }


class Group:
    """One deployment group.

    Attributes:
        site: The narrowest domain that its replicas fix; None if they break the levels required of them
            or nobody knows where they are. Nothing is added to such a group.
        capacity: By stage, in replicas of its first hardware class.
        members: Replicas that exist, with their weights.
    """

    __slots__ = ("capacity", "members", "name", "site")

    def __init__(self, name: str, site: Path | None = ()) -> None:
        self.name = name
        self.site = site
        self.capacity: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        self.members: dict[Stage, list[tuple[float, PlacedReplica]]] = {stage: [] for stage in Stage}

    def settle(self, home: Domain | None, level: int) -> None:
        """Take account of where a replica is that shares `level` levels with the group."""
        if self.site is None or (level and (home is None or len(home.path) < level)):
            self.site = None
            return
        prefix = home.path[:level] if home else ()
        shorter, longer = sorted((self.site, prefix), key=len)
        self.site = longer if longer[: len(shorter)] == shorter else None


class Layout:
    """One service: what it should have, what it has, in groups.

    Attributes:
        levels: By stage; see `stage_levels`.
        targets: Planned replicas of the first class by stage; a stage that has no plan is left alone.
        capacity: By stage, draining replicas and those without a node left out.
        groups: By name.
        waiting: Replicas without a node by stage.
        left: Accelerators that the service's budget still allows.
    """

    def __init__(
        self,
        policy: ControlPolicy,
        plan: ScalePlan,
        replicas: Iterable[PlacedReplica],
    ) -> None:
        self.policy = policy
        self.levels = stage_levels(policy.edges)
        self.depth = self.levels[Stage.PREFILL]
        self.targets = {stage: float(plan.stages[stage].replicas) for stage in Stage if stage in plan.stages}
        self.capacity = dict.fromkeys(Stage, 0.0)
        self.groups: dict[str, Group] = {}
        self.waiting: dict[Stage, list[PlacedReplica]] = defaultdict(list)
        self.left: float = math.inf if policy.budget is None else policy.budget
        self._names: set[str] = set()
        self._covers: dict[tuple[Stage, float], list[Cover]] = {}
        self._read(replicas)

    @cached_property
    def options(self) -> dict[Stage, tuple[Option, ...]]:
        """Usable hardware by stage, best first."""
        return {stage: options(self.policy, stage) for stage in self.policy.stages}

    def settled(self) -> bool:
        """Return whether nothing is missing, may go or waits: placing would change nothing."""
        return not (self.waiting or self.deficits() or any(map(self.superfluous, self.targets)))

    def superfluous(self, stage: Stage) -> bool:
        """Return whether a stage has more than it should by the weight of its heaviest replica."""
        surplus = self.capacity[stage] - self.targets[stage]
        if surplus < EPSILON:
            return False
        weights = [worth for group in self.groups.values() for worth, _ in group.members[stage]]
        return bool(weights) and surplus >= max(weights) - EPSILON

    def deficits(self) -> dict[Stage, float]:
        """Return the capacity that is missing, by stage."""
        missing = {stage: target - self.capacity[stage] for stage, target in self.targets.items()}
        return {stage: amount for stage, amount in missing.items() if amount > EPSILON}

    def size(self, stage: Stage) -> int:
        """Return the accelerators of one replica."""
        return self.policy.stages[stage].tp

    def covers(self, stage: Stage, need: float) -> list[Cover]:
        """Return `cover.covers` of the stage's options."""
        key = stage, round(need, 6)
        found = self._covers.get(key)
        if found is None:
            found = self._covers[key] = covers(self.options.get(stage, ()), key[1])
        return found

    def partners(self) -> list[Stage]:
        """Return the stages that a group must have to be of use."""
        wanted = [stage for stage in PARTNERS if self.targets.get(stage, 0.0) > 0.0]
        return wanted or [Stage.ENCODE]

    def share(self, group: Group, stage: Stage) -> float:
        """Return the fraction of the stage's target that a group has."""
        target = self.targets.get(stage, 0.0)
        return group.capacity[stage] / target if target > 0.0 else 0.0

    def has(self, group: Group | None, stage: Stage) -> bool:
        """Return whether a group, or a new one, has a stage to work with.

        One of its own, or any of the service if prefill and decode need not be near each other.
        """
        if self.policy.edges.prefill_decode == 0 and self.capacity[stage] > EPSILON:
            return True
        return group is not None and group.capacity[stage] > EPSILON

    def useful(self, group: Group) -> bool:
        """Return whether a group has every stage that it must have."""
        return all(self.has(group, stage) for stage in self.partners())

    def lag(self, stage: Stage) -> float:
        """Return how much of a stage is missing beside the other stages that there are, in replicas.

        More prefill than decode can take up is of no use, nor the reverse. Encode is never held back.
        """
        target = self.targets[stage]
        others = [self.capacity[o] / self.targets[o] for o in self.partners() if o is not stage]
        if stage is Stage.ENCODE or not others:
            return target - self.capacity[stage]
        return math.ceil(min(1.0, *others) * target - self.capacity[stage] - EPSILON)

    def new_name(self) -> str:
        """Return the first name of a group that is not taken."""
        number = 0
        while f"{self.policy.service}-{number}" in self._names:
            number += 1
        return f"{self.policy.service}-{number}"

    def group(self, name: str) -> Group:
        """Return a group; it is new if there is none of the name."""
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(name)
            self._names.add(name)
        return found

    def settle(self, topology: Topology) -> None:
        """Find the site of each group from the replicas that it has now."""
        for group in self.groups.values():
            group.site = ()
            for stage, members in group.members.items():
                for _, replica in members:
                    group.settle(topology.domain_of(replica.node_id), self.levels[stage])

    def add(self, group: Group, stage: Stage, amount: float) -> None:
        """Count capacity in, or out if the amount is negative."""
        group.capacity[stage] += amount
        self.capacity[stage] += amount

    def _read(self, replicas: Iterable[PlacedReplica]) -> None:
        weights: dict[tuple[Stage, str, int], float] = {}
        for replica in replicas:
            if replica.node_id:
                self.left -= replica.tp
            if replica.state is ReplicaState.DRAINING:
                self._names.add(replica.group)
            elif not replica.node_id:
                self.waiting[replica.stage].append(replica)
            else:
                key = replica.stage, replica.hardware, replica.tp
                if key not in weights:
                    weights[key] = weight(self.policy, *key)
                group = self.group(replica.group)
                group.members[replica.stage].append((weights[key], replica))
                self.add(group, replica.stage, weights[key])
