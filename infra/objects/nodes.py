"""Nodes with accelerators, by three backends: simulated, labelled, bought by Karpenter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from infra.node_config import LabelledNodes, NodePoolConfig, SimulatedNodes, Spread
from infra.objects.karpenter import karpenter_objects
from infra.objects.names import Object, metadata, object_name
from orchestrator.core.profile import Accelerator
from orchestrator.kube_names import ACCELERATOR_RESOURCE, ACCELERATOR_TAINT, HARDWARE, PROCESSORS
from orchestrator.start_times import node_start

_MEMORY = f"{ACCELERATOR_RESOURCE}.memory"
_FAKE = {"kwok.x-k8s.io/node": "fake"}
_VCPUS_PER_ACCELERATOR = 12
_GB_PER_ACCELERATOR = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePoolArgs:
    """One pool of equal nodes.

    Attributes:
        stack: Distinguishes cluster-wide objects of several stacks; its namespace.
        accelerator: Facts of the hardware class, from `data/accelerators.yaml`.
        speed_up: How many times quicker than those facts simulated nodes are provisioned; None: at once.
    """

    name: str
    stack: str
    config: NodePoolConfig
    accelerator: Accelerator
    speed_up: float | None = None


def node_objects(args: NodePoolArgs) -> list[Object]:
    """Return the nodes, or what makes them."""
    config = args.config
    if config.simulated:
        return list(_simulated(args, config.simulated))
    if config.labels:
        return list(_labelled(args, config.labels))
    assert config.karpenter
    name = object_name(args.stack, args.name)
    return karpenter_objects(name, config.hardware, config.accelerators, _taints(args), config.karpenter)


def domains(nodes: int, spread: Sequence[Spread]) -> list[dict[str, str]]:
    """Return the topology labels of each node, as evenly spread as can be.

    Args:
        nodes: How many.
        spread: Topology levels, widest first.
    """
    leaves = prod(each.domains for each in spread)
    return [_domain(node * leaves // nodes, spread) for node in range(nodes)]


def _domain(leaf: int, spread: Sequence[Spread]) -> dict[str, str]:
    below, path, labels = prod(each.domains for each in spread), [], {}
    for each in spread:
        below //= each.domains
        path.append(str(leaf // below % each.domains))
        labels[each.level] = "-".join(["d", *path])
    return labels


def _taints(args: NodePoolArgs) -> list[Object]:
    return [] if args.config.hardware == PROCESSORS else [ACCELERATOR_TAINT]


def _hardware_labels(args: NodePoolArgs) -> dict[str, str]:
    if args.config.hardware == PROCESSORS:
        return {HARDWARE: PROCESSORS}
    return {
        HARDWARE: args.config.hardware,
        f"{ACCELERATOR_RESOURCE}.product": args.config.hardware,
        f"{ACCELERATOR_RESOURCE}.count": str(args.config.accelerators),
        _MEMORY: str(round(args.accelerator.memory_bytes / 2**20)),
    }


def _resources(args: NodePoolArgs) -> dict[str, str]:
    count = args.config.accelerators
    if args.config.hardware == PROCESSORS:
        memory_bytes = count * args.accelerator.memory_bytes
        return {"cpu": str(count), "memory": str(memory_bytes), "pods": "110"}
    return {
        ACCELERATOR_RESOURCE: str(count),
        "cpu": str(count * _VCPUS_PER_ACCELERATOR),
        "memory": f"{count * _GB_PER_ACCELERATOR}G",
        "pods": "110",
    }


def _simulated(args: NodePoolArgs, backend: SimulatedNodes) -> Iterator[Object]:
    resources = _resources(args)
    notes = _FAKE | (node_start(args.accelerator, args.speed_up) if args.speed_up else {})
    for number, domain in enumerate(domains(backend.nodes, backend.spread)):
        name = object_name(args.stack, args.name, str(number))
        labels = {"type": "kwok", "kubernetes.io/hostname": name} | _hardware_labels(args) | domain
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata(name, labels=labels, annotations=notes),
            "spec": {"taints": _taints(args)},
            "status": {"capacity": resources, "allocatable": resources},
        }


def _labelled(args: NodePoolArgs, backend: LabelledNodes) -> Iterator[Object]:
    assert backend.nodes, "adopt() puts names in the selector's place"
    for node in backend.nodes:
        labels = {HARDWARE: args.config.hardware, **backend.labels}
        yield {"apiVersion": "v1", "kind": "NodePatch", "metadata": {"name": node, "labels": labels}}
