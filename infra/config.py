"""A stack's configuration, `Pulumi.<stack>.yaml`: keys `tercet:...` to frozen values, or what is wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from infra.config_fields import DnsLabel
from infra.node_config import NodePoolConfig
from infra.preview_config import PreviewConfig
from infra.service_config import ServiceConfig
from infra.shared_config import BrokerConfig, ObservabilityConfig, StartsConfig
from orchestrator.yaml_fields import STRICT, InfeasibleError, Name
from orchestrator.yaml_file import FileError, load_yaml

PREFIX = "tercet:"

T = TypeVar("T")


class ConfigError(ValueError):
    """A stack's configuration that cannot be used; the message names the keys."""


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
        controller: Who scales services with `autoscaler: tercet`: the stack's own controller, or that of a
            federation, of which this stack is a member.
        services: By name, which is also the policy's `service`.
        keys_secret: Name of a Secret with the key `keys.yaml`: the gateways' API keys.
        observability: Null: none.
        preview: What is predicted.
        starts: How long simulated nodes and their pods take to start; null: no time.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    services: Annotated[Mapping[DnsLabel, ServiceConfig], Field(min_length=1)]
    namespace: DnsLabel = "tercet"
    node_pools: Mapping[DnsLabel, NodePoolConfig] = field(default_factory=dict)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    controller: Literal["own", "federation"] = "own"
    images: ImagesConfig = field(default_factory=ImagesConfig)
    keys_secret: DnsLabel = "tercet-keys"  # noqa: S105  # the name of a secret, not one
    observability: ObservabilityConfig | None = None
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    starts: StartsConfig | None = None

    def __post_init__(self) -> None:
        scalers = {service.autoscaler for service in self.services.values()}
        if self.controller == "federation" and "tercet" not in scalers:
            raise InfeasibleError("no service has autoscaler tercet", "controller")
        seen = self.observability or ObservabilityConfig(monitors=False)
        for name, service in self.services.items():
            if service.autoscaler in ("hpa", "keda") and seen.monitors is False:
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
    return parse(_ADAPTER, values, PREFIX, f"Pulumi.{stack}.yaml")


def parse(adapter: TypeAdapter[T], values: Mapping[str, str], prefix: str, file: str) -> T:
    """Return what an adapter makes of those values whose keys have the prefix.

    Args:
        adapter: Of the configuration.
        values: Pulumi's, by full key.
        prefix: Of the project, with its colon.
        file: That messages name.

    Raises:
        ConfigError: See `parse_config`.
    """
    document = {
        key.removeprefix(prefix): yaml.safe_load(value)
        for key, value in values.items()
        if key.startswith(prefix)
    }
    try:
        return load_yaml(adapter, json.dumps(document), file)
    except FileError as error:
        # Pulumi hands over values without their lines.
        lines = [
            f"{p.file}: `{prefix}{p.key}`: {p.message}"
            + (f"; did you mean `{p.nearest}`?" if p.nearest else "")
            for p in error.problems
        ]
        raise ConfigError("\n".join(lines)) from None
