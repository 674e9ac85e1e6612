"""The components of a stack."""

import pulumi

from infra.components.kube import KubeComponent
from infra.objects.broker import BrokerArgs, broker_objects
from infra.objects.controller import ControllerArgs, controller_objects
from infra.objects.federation import FederationArgs, federation_objects
from infra.objects.gateway import GatewayArgs, gateway_objects
from infra.objects.names import Object
from infra.objects.nodes import NodePoolArgs, node_objects
from infra.objects.observability import ObservabilityArgs, observability_objects
from infra.objects.pool_args import StagePoolArgs
from infra.objects.publisher import PublisherArgs, publisher_objects
from infra.objects.redis_access import BROKER
from infra.objects.service import ModelServiceArgs, service_objects
from infra.objects.stage_pool import pool_objects
from infra.stack import base_objects


class Base(KubeComponent):
    """Namespace, priority class and closed doors: what all others lie in."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace, base_objects(namespace), {"namespace": namespace})


class GpuNodePool(KubeComponent):
    """Equal nodes with accelerators, whatever makes them."""

    def __init__(self, args: NodePoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(args.name, node_objects(args), {"hardware": args.config.hardware}, opts)


class Broker(KubeComponent):
    """Redis."""

    def __init__(self, args: BrokerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = {} if args.config.external_port else {"host": f"{BROKER}.{args.namespace}"}
        super().__init__(BROKER, broker_objects(args), outputs, opts)


class StagePool(KubeComponent):
    """The replicas of one stage on one hardware class."""

    def __init__(self, args: StagePoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = {"deployment": args.name}
        scaled = args.autoscaler != "none"
        super().__init__(args.name, pool_objects(args), outputs, opts, uncounted=scaled)


class ModelService(KubeComponent):
    """The three stages of one policy file."""

    def __init__(self, args: ModelServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = {"pools": [pool.name for pool in args.pools]}
        super().__init__(args.policy.service, service_objects(args), outputs, opts)
        for pool in args.pools:
            StagePool(pool, pulumi.ResourceOptions(parent=self))


class Gateway(KubeComponent):
    """Where the clients of one service go."""

    def __init__(self, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(args.name, gateway_objects(args), {"url": args.url}, opts, uncounted=args.scaled)


class Controller(KubeComponent):
    """Who scales and places the pools."""

    def __init__(self, args: ControllerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("controller", controller_objects(args), {"services": list(args.services)}, opts)


class Federation(KubeComponent):
    """Who scales and places the pools of several stacks; what its pod is told may be known late."""

    def __init__(self, args: FederationArgs, spec: pulumi.Output[Object]) -> None:
        outputs = {"services": list(args.services)}
        super().__init__(args.namespace, federation_objects(args, spec), outputs)


class Publisher(KubeComponent):
    """Who brings edits of live fields to running processes."""

    def __init__(self, args: PublisherArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("publisher", publisher_objects(args), {"services": list(args.services)}, opts)


class Observability(KubeComponent):
    """What watches the stack."""

    def __init__(self, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("observability", observability_objects(args), {}, opts)
