"""A stack's node pools as its configuration has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from infra.config_fields import LabelValue
from orchestrator.yaml_fields import STRICT, Count, InfeasibleError, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One topology level.

    Attributes:
        level: Node label.
        domains: How many there are within each domain of the level above.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    level: Name
    domains: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNodes:
    """Nodes that only exist in the API; KWOK pretends to run them.

    Attributes:
        nodes: How many, spread evenly over the domains of `spread`.
        spread: Topology levels, widest first. A list, since Pulumi sorts the keys of mappings.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    nodes: Count
    spread: tuple[Spread, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledNodes:
    """Nodes that exist already: each gets our hardware label. Either their names or a selector is given.

    Attributes:
        nodes: Their names.
        selector: Labels that they all bear; which those are is asked at each run of the program.
        labels: Further labels to put on them, such as topology levels that the cluster lacks.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    nodes: tuple[Name, ...] = ()
    selector: Mapping[Name, LabelValue] = field(default_factory=dict)
    labels: Mapping[Name, LabelValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.nodes) == bool(self.selector):
            raise InfeasibleError("exactly one of nodes and selector has to be given")


@dataclass(frozen=True, slots=True, kw_only=True)
class DisruptionBudget:
    """How many nodes of a pool Karpenter may take at once.

    Attributes:
        nodes: A count or a share, such as `10%`.
        reasons: For which it holds; all without.
        schedule: When it begins to hold, as cron has it, in UTC; always without.
        duration: How long it then holds, such as `8h`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    nodes: Annotated[str, Field(pattern=r"^(100|[0-9]{1,2})%$|^[0-9]+$")] = "10%"
    reasons: tuple[Literal["Empty", "Drifted", "Underutilized"], ...] = ()
    schedule: Name | None = None
    duration: Annotated[str | None, Field(pattern=r"^([0-9]+(m|h))+$")] = None

    def __post_init__(self) -> None:
        if (self.schedule is None) != (self.duration is None):
            raise InfeasibleError("schedule and duration are given together or not at all")


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterNodes:
    """Nodes that Karpenter buys on AWS when pods need them.

    Attributes:
        instance_types: EC2 instance types.
        max_accelerators: Most that may exist at once.
        role: IAM role of the nodes.
        discovery: Value of the tag `karpenter.sh/discovery` on subnets and security groups.
        capacity: Kinds of capacity.
        reservations: Ids of EC2 capacity reservations, for capacity `reserved`.
        zones: Availability zones; all that the subnets are in without.
        labels: Further labels of all its nodes, such as a topology level that a reservation is in as a whole.
        ami: Alias of the machine image; name a version where the stack matters.
        disk_gb: Gigabytes of the root volume: images and weights. Local disks are used where a type has some.
        consolidation: Which nodes may go. A cold start costs more than a half-empty node: only empty ones.
        consolidate_after_s: Seconds of that before a node goes.
        expire_after_h: Hours after which a node is replaced; null: never.
        budgets: How many may go at once.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    instance_types: Annotated[tuple[Name, ...], Field(min_length=1)]
    max_accelerators: Count
    role: Name
    discovery: Name
    capacity: Annotated[tuple[Literal["on-demand", "spot", "reserved"], ...], Field(min_length=1)] = (
        "on-demand",
    )
    reservations: tuple[Annotated[str, Field(pattern=r"^cr-[0-9a-z]+$")], ...] = ()
    zones: tuple[LabelValue, ...] = ()
    labels: Mapping[Name, LabelValue] = field(default_factory=dict)
    ami: Annotated[str, Field(pattern=r"^[a-zA-Z0-9]+@.+$")] = "al2023@latest"
    disk_gb: Count = 500
    consolidation: Literal["WhenEmpty", "WhenEmptyOrUnderutilized"] = "WhenEmpty"
    consolidate_after_s: Count = 600
    expire_after_h: Count | None = 720
    budgets: Annotated[tuple[DisruptionBudget, ...], Field(min_length=1)] = (DisruptionBudget(),)

    def __post_init__(self) -> None:
        if ("reserved" in self.capacity) != bool(self.reservations):
            raise InfeasibleError("capacity reserved and reservations are given together or not at all")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePoolConfig:
    """One pool of equal nodes; exactly one of the backends is given.

    Attributes:
        hardware: Accelerator type, a name of `data/accelerators.yaml`.
        accelerators: Of one node; its processors if the hardware is `cpu`.
        levels: Topology levels whose labels its nodes get from elsewhere, beside host name, zone and region;
            simulated nodes have those of `spread` alone.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hardware: LabelValue
    accelerators: Count = 8
    levels: tuple[Name, ...] = ()
    simulated: SimulatedNodes | None = None
    labels: LabelledNodes | None = None
    karpenter: KarpenterNodes | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.simulated, self.labels, self.karpenter)) != 1:
            raise InfeasibleError("exactly one of simulated, labels and karpenter has to be given")
