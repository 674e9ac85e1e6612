"""A stack's configuration and its policy files, made into the arguments of all components."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.config import ConfigError, StackConfig
from infra.objects.broker import BrokerArgs, broker_objects
from infra.objects.controller import ControllerArgs, controller_objects
from infra.objects.gateway import GatewayArgs, gateway_objects
from infra.objects.names import CollisionError, Object, check_collisions, metadata
from infra.objects.network import namespace_edges
from infra.objects.nodes import NodePoolArgs, node_objects
from infra.objects.observability import ObservabilityArgs, observability_objects
from infra.objects.publisher import PublisherArgs, publisher_objects
from infra.objects.service import ModelServiceArgs, service_objects
from infra.objects.stage_pool import pool_objects
from infra.service_policy import read_policy
from infra.shared_config import StartsConfig
from infra.spans import spans
from orchestrator.control_policy import policy_profile
from orchestrator.core.profile import Accelerator, ModelProfile
from orchestrator.policy import UNSPLIT, Policy
from orchestrator.profiles import NoProfileError
from orchestrator.start_times import pod_start
from orchestrator.yaml_file import FileError
from stages.types import Stage

_PRIORITY = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StackArgs:
    """Arguments of every component; None for what no service and no key asks for."""

    namespace: str
    node_pools: tuple[NodePoolArgs, ...]
    services: tuple[ModelServiceArgs, ...]
    gateways: tuple[GatewayArgs, ...]
    broker: BrokerArgs
    publisher: PublisherArgs
    controller: ControllerArgs | None
    observability: ObservabilityArgs | None

    def objects(self) -> Iterator[Object]:
        """Yield every object of the stack."""
        yield from base_objects(self.namespace)
        for pool in self.node_pools:
            yield from node_objects(pool)
        yield from broker_objects(self.broker)
        for service in self.services:
            yield from service_objects(service)
            for stage_pool in service.pools:
                yield from pool_objects(stage_pool)
        for gateway in self.gateways:
            yield from gateway_objects(gateway)
        yield from publisher_objects(self.publisher)
        if self.controller:
            yield from controller_objects(self.controller)
        if self.observability:
            yield from observability_objects(self.observability)


def stack_args(config: StackConfig, root: Path, accelerators: Mapping[str, Accelerator]) -> StackArgs:
    """Return what to build.

    Args:
        config: Of the stack.
        root: Folder that policy paths start from.
        accelerators: Facts of the hardware classes.

    Raises:
        ConfigError: A policy cannot be used, or two objects would collide.
    """
    services = tuple(_service(name, config, root, accelerators) for name in sorted(config.services))
    scaled = tuple(service for service in services if service.config.autoscaler == "tercet")
    made = StackArgs(
        namespace=config.namespace,
        node_pools=tuple(_node_pool(name, config, accelerators) for name in sorted(config.node_pools)),
        services=services,
        gateways=tuple(_gateway(service, config) for service in services),
        broker=BrokerArgs(
            namespace=config.namespace, config=config.broker, federated=config.controller == "federation"
        ),
        publisher=PublisherArgs(
            namespace=config.namespace,
            services=tuple(each.policy.service for each in services),
            image=config.images.tercet,
            broker=config.broker,
        ),
        controller=_controller(config, scaled) if scaled else None,
        observability=_observability(config, services),
    )
    try:
        check_collisions(made.objects())
    except CollisionError as error:
        raise ConfigError(str(error)) from error
    return made


def base_objects(namespace: str) -> list[Object]:
    """Return what everything else lies in: namespace, priority, closed doors."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(namespace)},
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": metadata(_priority_class(namespace)),
            "value": _PRIORITY,
            "preemptionPolicy": "Never",  # a replica that waits is cheaper than one that is killed
            "description": "Replicas of Tercet's stages",
        },
        *namespace_edges(namespace),
    ]


def _priority_class(namespace: str) -> str:
    return f"{namespace}-serving"


def _service(
    name: str, config: StackConfig, root: Path, accelerators: Mapping[str, Accelerator]
) -> ModelServiceArgs:
    file = root / config.services[name].policy
    policy, profile_text = read_policy(f"tercet:services.{name}.policy", name, file)
    _check_hardware_of(name, policy, accelerators)
    profile = _profile(name, policy, file, accelerators)
    if policy.stages.decode.engine in UNSPLIT:
        message = f"{policy.stages.decode.engine} is a server that runs elsewhere, of which no image is known"
        raise ConfigError(f"`tercet:services.{name}.policy`: {message}; `tercet up --engines` serves it")
    if config.services[name].inference_pool and policy.stages.decode.engine != "vllm":
        message = "decode has to be vllm, whose server takes whole requests"
        raise ConfigError(f"`tercet:services.{name}.inference_pool`: {message}")
    return ModelServiceArgs(
        policy=policy,
        file=file,
        namespace=config.namespace,
        config=config.services[name],
        images=config.images,
        broker=config.broker,
        priority_class=_priority_class(config.namespace),
        profile_text=profile_text,
        nodes=spans(config, policy),
        weights_bytes=profile.weights_bytes if profile else {},
        token_bytes=profile.kv_bytes_per_token if profile else 1,
        starts=_starts(profile, config.starts),
        prometheus=(config.observability.prometheus if config.observability else None) or "",
    )


def _profile(
    name: str, policy: Policy, file: Path, accelerators: Mapping[str, Accelerator]
) -> ModelProfile | None:
    """Return what is known of a service's model; None of one without a profile."""
    try:
        return policy_profile(policy, file, accelerators)
    except NoProfileError:
        return None
    except FileError as error:
        raise ConfigError(f"`tercet:services.{name}.policy`: {error}") from error


def _starts(profile: ModelProfile | None, starts: StartsConfig | None) -> Mapping[Stage, Mapping[str, str]]:
    """Return how long pods take on simulated nodes, as far as that is known and asked for."""
    if profile is None or starts is None:
        return {}
    return {stage: pod_start(profile.cold_start[stage], starts.speed_up) for stage in Stage}


def _check_hardware_of(name: str, policy: Policy, accelerators: Mapping[str, Accelerator]) -> None:
    for stage in Stage:
        for hardware in policy.stages[stage].hardware:
            _check_hardware(f"services.{name}: stages.{stage.value}.hardware", hardware, accelerators)


def _check_hardware(key: str, hardware: str, accelerators: Mapping[str, Accelerator]) -> None:
    if hardware not in accelerators:
        known = ", ".join(sorted(accelerators))
        raise ConfigError(f"`tercet:{key}`: {hardware} is not in data/accelerators.yaml: {known}")


def _node_pool(name: str, config: StackConfig, accelerators: Mapping[str, Accelerator]) -> NodePoolArgs:
    pool = config.node_pools[name]
    _check_hardware(f"node_pools.{name}.hardware", pool.hardware, accelerators)
    return NodePoolArgs(
        name=name,
        stack=config.namespace,
        config=pool,
        accelerator=accelerators[pool.hardware],
        speed_up=config.starts.speed_up if config.starts else None,
    )


def _gateway(service: ModelServiceArgs, config: StackConfig) -> GatewayArgs:
    return GatewayArgs(
        service=service.policy.service,
        namespace=config.namespace,
        replicas=service.config.gateways,
        max_replicas=service.config.gateways_max or service.config.gateways,
        image=config.images.tercet,
        broker=config.broker,
        keys_secret=config.keys_secret,
        expose=service.config.expose,
    )


def _controller(config: StackConfig, services: Sequence[ModelServiceArgs]) -> ControllerArgs:
    return ControllerArgs(
        namespace=config.namespace,
        services=tuple(service.policy.service for service in services),
        pools=tuple(pool.name for service in services for pool in service.pools),
        image=config.images.tercet,
        broker=config.broker,
        karpenter=any(pool.karpenter for pool in config.node_pools.values()),
        elsewhere=config.controller == "federation",
    )


def _observability(config: StackConfig, services: tuple[ModelServiceArgs, ...]) -> ObservabilityArgs | None:
    if config.observability is None:
        return None
    return ObservabilityArgs(
        namespace=config.namespace,
        config=config.observability,
        attainment={each.policy.service: each.policy.slo.attainment for each in services},
    )
