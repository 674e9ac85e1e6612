"""What a stack's configuration says of what its services share: Redis, observability."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from infra.config_fields import Cidr, DnsLabel, HttpUrl, LabelValue, Port
from orchestrator.yaml_fields import STRICT, Count, InfeasibleError, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Redis.

    Attributes:
        secret: Name of a Secret with the keys `blob-token` and `password`, made by whoever owns the cluster.
        external_port: Port of a Redis that is somebody else's; the Secret's key `url` then says where it is,
            and there is no `password`. Null: the stack has a Redis of its own.
        shards: Servers among which services are divided, each of them whole on one. Of an external Redis, the
            Secret then has a key `url-0` and so on for each.
        tls_secret: Name of a Secret with `tls.crt`, `tls.key` and `ca.crt`, for the name `redis`, or
            `*.redis` of several shards; null: no TLS. Of an external Redis `ca.crt` alone, which its URL may
            name as /etc/tercet/redis/ca.crt.
        storage_gb: Gigabytes of its volume; null: kept in the pod, and lost with it.
        storage_class: Of that volume; null: the cluster's default.
        memory_mb: Megabytes that it may fill.
        outside: Networks outside the cluster that may reach it: where the controller of a federation runs.
        image: Its container image.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    secret: DnsLabel = "tercet-redis"  # noqa: S105  # the name of a secret, not one
    external_port: Port | None = None
    shards: Count = 1
    tls_secret: DnsLabel | None = None
    storage_gb: Count | None = None
    storage_class: DnsLabel | None = None
    memory_mb: Count = 1024
    outside: tuple[Cidr, ...] = ()
    image: Name = "docker.io/library/redis:7.4"

    def __post_init__(self) -> None:
        if self.storage_class and not self.storage_gb:
            raise InfeasibleError("without storage_gb there is no volume", "storage_class")
        if self.storage_gb and self.external_port:
            raise InfeasibleError("an external Redis keeps its own", "storage_gb")
        if self.outside and self.external_port:
            raise InfeasibleError("who reaches an external Redis is not for the stack to say", "outside")
        for number, each in enumerate(self.outside):
            try:
                ip_network(each)
            except ValueError as error:
                raise InfeasibleError(str(error), "outside", str(number)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsConfig:
    """How long simulated nodes and their pods take to start: as accelerators' facts and models' profiles say.

    Attributes:
        speed_up: So many times quicker.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    speed_up: Annotated[float, Field(ge=0.001, le=1e6)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservabilityConfig:
    """What watches the stack.

    Attributes:
        monitors: Whether to make PodMonitor and PrometheusRule, which need Prometheus Operator; null: if the
            cluster has it when Pulumi runs.
        monitor_labels: Labels by which that Prometheus chooses them.
        dashboards: Whether to make ConfigMaps with Grafana dashboards.
        dashboard_labels: Labels by which Grafana finds them.
        prometheus: Where KEDA asks Prometheus; null: KEDA is not used.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    monitors: bool | None = None
    monitor_labels: Mapping[Name, LabelValue] = field(default_factory=dict)
    dashboards: bool = True
    dashboard_labels: Mapping[Name, LabelValue] = field(default_factory=lambda: {"grafana_dashboard": "1"})
    prometheus: HttpUrl | None = None
