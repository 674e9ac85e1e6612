"""What the tests put into a control plane, and what they see of it."""

import secrets

import kubernetes

from orchestrator.core.pools import Pool
from orchestrator.kube_names import ACCELERATOR_RESOURCE, GATE, HARDWARE, SERVICE, STAGE
from tests.system.harness import until

LEVELS = ("topology.kubernetes.io/zone", "example.com/block", "example.com/rack")
TOLERATION = {"key": ACCELERATOR_RESOURCE, "operator": "Exists"}


class Api:
    """A namespace: one that is there, or without a name one of its own."""

    def __init__(self, kubeconfig, namespace=""):
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self.core = kubernetes.client.CoreV1Api(self._client)
        self.apps = kubernetes.client.AppsV1Api(self._client)
        self._own = not namespace
        self.namespace = namespace or f"test-{secrets.token_hex(4)}"

    def __enter__(self):
        if self._own:
            self.core.create_namespace({"metadata": {"name": self.namespace}})
            accounts = self.core.list_namespaced_service_account
            until("pods may be made", lambda: accounts(self.namespace).items)
        return self

    def __exit__(self, *_):
        if self._own:
            self.core.delete_namespace(self.namespace)
        self._client.close()

    def pool(self, pool: Pool, tp: int, replicas: int = 0, annotations=None):
        """Create a Deployment as a stage pool has it."""
        labels = {SERVICE: pool.service, STAGE: str(pool.stage), HARDWARE: pool.hardware}
        limits = {"limits": {ACCELERATOR_RESOURCE: str(tp)}}
        container = {"name": "worker", "image": "none", "resources": limits}
        spec = {
            "schedulingGates": [{"name": GATE}],
            "nodeSelector": {HARDWARE: pool.hardware},
            "tolerations": [TOLERATION],
            "containers": [container],
        }
        template = {"metadata": {"labels": labels, "annotations": annotations or {}}, "spec": spec}
        body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        name = "-".join(pool[:3])
        self.apps.create_namespaced_deployment(
            self.namespace, {"metadata": {"name": name, "labels": labels}, "spec": body}
        )
        return name

    def pods(self):
        """Return the pods of all stages."""
        return self.core.list_namespaced_pod(self.namespace, label_selector=STAGE).items

    def rack_of(self, node: str):
        labels = self.core.read_node(node).metadata.labels
        return tuple(labels[level] for level in LEVELS)


def is_ready(pod) -> bool:
    """Return whether a pod's probe says that it serves."""
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())
