"""A stack's configuration, `Pulumi.<stack>.yaml`: keys `tercet:...` to frozen values, or what is wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from infra.config_fields import DnsLabel, LabelValue
from infra.service_config import ServiceConfig
from infra.shared_config import BrokerConfig, ObservabilityConfig
from orchestrator.yaml_fields import STRICT, Count, InfeasibleError, Name
from orchestrator.yaml_file import FileError, load_yaml

PREFIX = "tercet:"


class ConfigError(ValueError):
    """A stack's configuration that cannot be used; the message names the keys."""


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
    """Nodes that exist already: each gets our hardware label.

    Attributes:
        nodes: Their names.
        labels: Further labels, such as topology levels that the cluster lacks.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    nodes: Annotated[tuple[Name, ...], Field(min_length=1)]
    labels: Mapping[Name, LabelValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterNodes:
    """Nodes that Karpenter buys on AWS when pods need them.

    Attributes:
        instance_types: EC2 instance types.
        max_accelerators: Most that may exist at once.
        role: IAM role of the nodes.
        discovery: Value of the tag `karpenter.sh/discovery` on subnets and security groups.
        capacity: Kinds of capacity.
        ami: Alias of the machine image.
        consolidate_after_s: Seconds of emptiness before a node goes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    instance_types: Annotated[tuple[Name, ...], Field(min_length=1)]
    max_accelerators: Count
    role: Name
    discovery: Name
    capacity: Annotated[tuple[Literal["on-demand", "spot", "reserved"], ...], Field(min_length=1)] = (
        "on-demand",
    )
    ami: Name = "al2023@latest"
    consolidate_after_s: Count = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePoolConfig:
    """One pool of equal nodes; exactly one of the backends is given.

    Attributes:
        hardware: Accelerator type, a name of `data/accelerators.yaml`.
        accelerators: Of one node; its processors if the hardware is `cpu`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hardware: LabelValue
    accelerators: Count = 8
    simulated: SimulatedNodes | None = None
    labels: LabelledNodes | None = None
    karpenter: KarpenterNodes | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.simulated, self.labels, self.karpenter)) != 1:
            raise InfeasibleError("exactly one of simulated, labels and karpenter has to be given")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesConfig:
    """Container images; name them by digest where the stack matters.

    Attributes:
        tercet: Gateway, controller and workers.
        vllm: Engine container of stages with `engine: vllm`.
        sglang: Engine container of stages with `engine: sglang`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    tercet: Name = "tercet:0.1.0"
    vllm: Name = "vllm/vllm-openai:v0.33.0"
    sglang: Name = "lmsysorg/sglang:v0.5.23"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """Everything that one stack says.

    Attributes:
        namespace: Made by the stack.
        node_pools: By name.
        services: By name, which is also the policy's `service`.
        keys_secret: Name of a Secret with the key `keys.yaml`: the gateways' API keys.
        observability: Null: none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    services: Annotated[Mapping[DnsLabel, ServiceConfig], Field(min_length=1)]
    namespace: DnsLabel = "tercet"
    node_pools: Mapping[DnsLabel, NodePoolConfig] = field(default_factory=dict)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    keys_secret: DnsLabel = "tercet-keys"  # noqa: S105  # the name of a secret, not one
    observability: ObservabilityConfig | None = None

    def __post_init__(self) -> None:
        seen = self.observability or ObservabilityConfig()
        for name, service in self.services.items():
            if service.autoscaler in ("hpa", "keda") and not seen.monitors:
                message = f"{service.autoscaler} goes by what Prometheus has: set observability.monitors"
                raise InfeasibleError(message, "services", name, "autoscaler")
            if service.autoscaler == "keda" and not seen.prometheus:
                raise InfeasibleError("set observability.prometheus", "services", name, "autoscaler")


_ADAPTER = TypeAdapter(StackConfig)


def parse_config(values: Mapping[str, str], stack: str) -> StackConfig:
    """Return the configuration in Pulumi's values by full key; keys of other projects are left alone.

    Raises:
        ConfigError: Names every wrong key, and the nearest valid one of an unknown one.
    """
    document = {
        key.removeprefix(PREFIX): yaml.safe_load(value)
        for key, value in values.items()
        if key.startswith(PREFIX)
    }
    try:
        return load_yaml(_ADAPTER, json.dumps(document), f"Pulumi.{stack}.yaml")
    except FileError as error:
        # Pulumi hands over values without their lines.
        lines = [
            f"{p.file}: `{PREFIX}{p.key}`: {p.message}"
            + (f"; did you mean `{p.nearest}`?" if p.nearest else "")
            for p in error.problems
        ]
        raise ConfigError("\n".join(lines)) from None
