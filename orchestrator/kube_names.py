"""Labels, annotations and the scheduling gate by which Tercet's objects on Kubernetes know each other."""

PREFIX = "tercet.dev"

SERVICE = f"{PREFIX}/service"
STAGE = f"{PREFIX}/stage"
HARDWARE = f"{PREFIX}/hardware"
"""On nodes, Deployments and pods: the accelerator type by the name that policy files use."""

GROUP = f"{PREFIX}/group"
"""Label of a placed pod: its deployment group."""

NODE = f"{PREFIX}/node"
"""Annotation of a placed pod: the node whose accelerators are set aside for it until it is bound."""

PLACED_UNIX_S = f"{PREFIX}/placed-unix-s"
"""Annotation of a placed pod: when its gate was removed."""

MOVABLE = f"{PREFIX}/movable"
"""Annotation of a pod whose worker does the stage that the pod's label names, and follows it."""

DOMAIN = f"{PREFIX}/domain"
"""Annotation of a pod: topology values of its place, a JSON list, with which its worker registers."""

GATE = f"{PREFIX}/placement"
"""Scheduling gate in the template of a pool that the controller scales."""

ACCELERATORS = f"{PREFIX}/accelerators"
"""Label in the template of a Karpenter NodePool, and of its nodes: how many one has."""

ORDER = f"{PREFIX}/order"
"""Label of a node that Karpenter made for a pod which asked for this very value."""

KARPENTER = "karpenter.sh"
KARPENTER_POOL = f"{KARPENTER}/nodepool"
KARPENTER_INITIALIZED = f"{KARPENTER}/initialized"
"""Label of a node whose accelerators can be asked for."""
POLICY_FILE = "policy.yaml"
"""Key of the ConfigMap that holds a service's policy; the other keys are files that the policy names."""

COLD_START = f"{PREFIX}/cold-start"
"""Annotation of a simulated pod: how long it takes from bound to ready, a Go duration such as `45s`."""

PROVISIONING = f"{PREFIX}/provisioning"
"""Annotation of a simulated node: how long it takes from created to ready, a Go duration."""

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
ACCELERATOR_RESOURCE = "nvidia.com/gpu"

PROCESSORS = "cpu"
"""The hardware class without accelerators: what asks for none, such as Redis, runs there too."""

ACCELERATOR_TAINT = {"key": ACCELERATOR_RESOURCE, "value": "present", "effect": "NoSchedule"}
"""As nodes with accelerators usually have: what asks for none stays away."""

METRIC_SERVICE = "tercet_service"
"""Label of metrics: the service. Not `service`, which Prometheus Operator sets itself."""


def resource_of(hardware: str) -> str:
    """Return the resource by which Kubernetes counts a hardware class."""
    return "cpu" if hardware == PROCESSORS else ACCELERATOR_RESOURCE
