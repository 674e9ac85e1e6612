"""Nodes that Karpenter buys on AWS."""

from infra.node_config import DisruptionBudget, KarpenterNodes
from infra.objects.names import Object, metadata
from orchestrator.kube_names import ACCELERATORS, HARDWARE, ORDER, resource_of


def karpenter_objects(
    name: str, hardware: str, accelerators: int, taints: list[Object], backend: KarpenterNodes
) -> list[Object]:
    """Return what Karpenter makes the nodes of a pool from: EC2NodeClass and NodePool, version 1.

    Args:
        name: Of both.
        hardware: Class of the nodes.
        accelerators: Of one node.
        taints: Of the nodes.
        backend: What else is asked of them.
    """
    labels = {**backend.labels, HARDWARE: hardware, ACCELERATORS: str(accelerators)}
    return [_node_class(name, backend), _pool(name, labels, taints, backend)]


def _node_class(name: str, backend: KarpenterNodes) -> Object:
    found = [{"tags": {"karpenter.sh/discovery": backend.discovery}}]
    spec: Object = {
        "role": backend.role,
        "amiSelectorTerms": [{"alias": backend.ami}],
        "subnetSelectorTerms": found,
        "securityGroupSelectorTerms": found,
        "blockDeviceMappings": [_root_volume(backend)],
        "instanceStorePolicy": "RAID0",  # without effect on types that have no local disks
    }
    if backend.reservations:
        spec["capacityReservationSelectorTerms"] = [{"id": each} for each in backend.reservations]
    return {
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": metadata(name),
        "spec": spec,
    }


def _root_volume(backend: KarpenterNodes) -> Object:
    # Bottlerocket keeps what containers write on its second disk.
    device = "/dev/xvdb" if backend.ami.startswith("bottlerocket") else "/dev/xvda"
    disk = {"volumeSize": f"{backend.disk_gb}G", "volumeType": "gp3", "encrypted": True}
    return {"deviceName": device, "ebs": {**disk, "deleteOnTermination": True}}


def _pool(name: str, labels: Object, taints: list[Object], backend: KarpenterNodes) -> Object:
    expires = f"{backend.expire_after_h}h" if backend.expire_after_h else "Never"
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": metadata(name),
        "spec": {
            "template": {
                "metadata": {"labels": labels},
                "spec": _claim(name, taints, backend) | {"expireAfter": expires},
            },
            "limits": {resource_of(labels[HARDWARE]): str(backend.max_accelerators)},
            "disruption": {
                "consolidationPolicy": backend.consolidation,
                "consolidateAfter": f"{backend.consolidate_after_s}s",
                "budgets": [_budget(each) for each in backend.budgets],
            },
        },
    }


def _claim(name: str, taints: list[Object], backend: KarpenterNodes) -> Object:
    """Return what every node of a pool is asked to be."""
    requirements = {
        "node.kubernetes.io/instance-type": backend.instance_types,
        "karpenter.sh/capacity-type": backend.capacity,
        "topology.kubernetes.io/zone": backend.zones,
    }
    return {
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name},
        "requirements": [
            {"key": key, "operator": "In", "values": list(values)}
            for key, values in requirements.items()
            if values
        ]
        # By it a pod can ask for a node of its own: Karpenter gives a new one the value that the pod names.
        + [{"key": ORDER, "operator": "Exists"}],
        "taints": taints,
    }


def _budget(budget: DisruptionBudget) -> Object:
    given = {"reasons": list(budget.reasons), "schedule": budget.schedule, "duration": budget.duration}
    return {"nodes": budget.nodes} | {key: value for key, value in given.items() if value}
