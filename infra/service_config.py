"""What a stack's configuration says of one service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from infra.config_fields import DnsLabel, Host, LabelValue, Port
from orchestrator.yaml_fields import STRICT, Count, InfeasibleError, Name

Autoscaler = Literal["tercet", "hpa", "keda", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposeConfig:
    """How clients outside the cluster reach a gateway; exactly one of `ingress_class` and `gateway` is given.

    Attributes:
        host: Its name in DNS.
        ingress_class: Makes an Ingress of this class.
        gateway: Makes an HTTPRoute at this Gateway of the Gateway API; the namespace is `gateway_namespace`.
        gateway_namespace: Null: the stack's own.
        tls_secret: Name of a Secret of type `kubernetes.io/tls` for the Ingress. A Gateway has its own.
        annotations: Of the Ingress or HTTPRoute, such as limits of an ingress controller.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    host: Host
    ingress_class: DnsLabel | None = None
    gateway: DnsLabel | None = None
    gateway_namespace: DnsLabel | None = None
    tls_secret: DnsLabel | None = None
    annotations: Mapping[Name, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.ingress_class is None) == (self.gateway is None):
            raise InfeasibleError("exactly one of ingress_class and gateway has to be given")
        if self.gateway and self.tls_secret:
            raise InfeasibleError(
                "the Gateway's listener holds the certificate of an HTTPRoute", "tls_secret"
            )
        if self.gateway_namespace and not self.gateway:
            raise InfeasibleError("an Ingress has no Gateway", "gateway_namespace")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePoolConfig:
    """Has an inference gateway reach the decode engines without Tercet's gateway.

    Attributes:
        picker: Name of the Service of the endpoint picker, which is installed apart.
        picker_port: Its port.
        from_namespace: Where the inference gateway's proxies run; null: in the stack's own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    picker: DnsLabel
    picker_port: Port = 9002
    from_namespace: DnsLabel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """One service of the stack.

    Attributes:
        policy: Its policy file, relative to the project.
        autoscaler: Who sets replica counts; `none`: they stay at each stage's `min`.
        queue: Kueue's LocalQueue that admits its pods; null: Kueue has no part in it.
        gateways: Gateway processes, at least.
        gateways_max: At most; an HPA on their processors chooses. Null: no more than `gateways`.
        expose: How clients outside the cluster come in; null: they do not.
        inference_pool: For the Gateway API Inference Extension; null: none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    policy: Name
    autoscaler: Autoscaler = "tercet"
    queue: LabelValue | None = None
    gateways: Count = 1
    gateways_max: Count | None = None
    expose: ExposeConfig | None = None
    inference_pool: InferencePoolConfig | None = None

    def __post_init__(self) -> None:
        if self.queue and self.autoscaler == "tercet":
            message = "Kueue and the controller would both place its pods; autoscaler has to be another"
            raise InfeasibleError(message, "queue")
        if self.gateways_max is not None and self.gateways_max < self.gateways:
            raise InfeasibleError(f"{self.gateways_max} is below gateways, {self.gateways}", "gateways_max")
