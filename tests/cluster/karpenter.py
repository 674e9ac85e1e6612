"""A small stand-in for Karpenter: makes simulated nodes for pods that nothing else can hold, within limits.

It does what Karpenter 1 documents, as far as orders need it: it looks at pods that the scheduler calls
unschedulable, takes NodePools whose labels and requirements fit, gives a new node the values that the pod
names, counts what it has made against the limit, packs pods into what it is making, and ends nodes that stay
empty. What it knows of a cloud is how many GPUs an instance has, and which rack it happens to stand in.
"""

import itertools
import threading
import time
from collections import defaultdict

import kubernetes
from kubernetes.client.exceptions import ApiException

from localcluster.nodes import FAKE
from orchestrator.kube_names import ACCELERATOR_RESOURCE, KARPENTER_INITIALIZED, KARPENTER_POOL, PROVISIONING
from tests.cluster.objects import LEVELS, is_ready

GPUS = {"p5.48xlarge": 8, "p4d.24xlarge": 8, "g6e.12xlarge": 4}
ZONE, BLOCK, RACK = LEVELS
INSTANCE, HOST = "node.kubernetes.io/instance-type", "kubernetes.io/hostname"
NODES_PER_RACK = 2


class Karpenter:
    """Runs in a thread until it is closed.

    Args:
        kubeconfig: An administrator's.
        start: How long a node takes to become ready, a Go duration.

    Attributes:
        most: The most accelerators that each NodePool ever had.
        made: Labels of every node that was ever made, by NodePool.
        failure: What ended it, if anything did.
    """

    def __init__(self, kubeconfig, start="2s"):
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self._core = kubernetes.client.CoreV1Api(self._client)
        self._custom = kubernetes.client.CustomObjectsApi(self._client)
        self._start, self._numbers = start, itertools.count()
        self._planned = {}  # pod → node that is being made for it
        self._empty_since_s = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most, self.made, self.failure = defaultdict(int), defaultdict(list), None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(30.0)
        self._client.close()

    def _run(self):
        while not self._end.wait(0.3):
            try:
                self._step()
            except ApiException as error:
                if error.status not in (404, 409):  # somebody was quicker
                    self.failure = error
                    raise

    def _step(self):
        pools = self._custom.list_cluster_custom_object("karpenter.sh", "v1", "nodepools")["items"]
        nodes = {
            node.metadata.name: node for node in self._core.list_node(label_selector=KARPENTER_POOL).items
        }
        pods = self._core.list_pod_for_all_namespaces().items
        for node in nodes.values():
            self._initialize(node)
        for pod in filter(_unschedulable, pods):
            self._provide(pod, pools, nodes, pods)
        for pool in pools:
            self._report(pool, nodes)
            self._consolidate(pool, nodes, pods)

    def _initialize(self, node):
        """The device plugin comes after the node is ready, and Karpenter sees that last."""
        name, labels = node.metadata.name, node.metadata.labels
        if is_ready(node) and ACCELERATOR_RESOURCE not in (node.status.allocatable or {}):
            gpus = {ACCELERATOR_RESOURCE: str(GPUS[labels[INSTANCE]])}
            self._core.patch_node_status(name, {"status": {"capacity": gpus, "allocatable": gpus}})
        elif is_ready(node) and KARPENTER_INITIALIZED not in labels:
            self._core.patch_node(name, {"metadata": {"labels": {KARPENTER_INITIALIZED: "true"}}})

    def _provide(self, pod, pools, nodes, pods):
        asked = dict(pod.spec.node_selector or {})
        for node in nodes.values():
            if asked.items() <= node.metadata.labels.items() and self._left(node, pod, pods) >= _gpus(pod):
                self._planned[pod.metadata.uid] = node.metadata.name
                return
        for pool in pools:
            labels = labels_for(asked, pool)
            if labels is not None and self._used(pool, nodes) + GPUS[labels[INSTANCE]] <= _limit(pool):
                made = self._make(pool, labels)
                nodes[made.metadata.name] = made
                self._planned[pod.metadata.uid] = made.metadata.name
                return

    def _left(self, node, pod, pods):
        name = node.metadata.name
        others = [each for each in pods if each.metadata.uid != pod.metadata.uid]
        held = [e for e in others if name in (e.spec.node_name, self._planned.get(e.metadata.uid))]
        return GPUS[node.metadata.labels[INSTANCE]] - sum(map(_gpus, held))

    def _used(self, pool, nodes):
        return sum(GPUS[node.metadata.labels[INSTANCE]] for node in _of(pool, nodes))

    def _make(self, pool, labels):
        number = next(self._numbers)
        pool_name = pool["metadata"]["name"]
        name = f"{pool_name}-{number}"
        zone = labels[ZONE]
        place = {BLOCK: f"{zone}-b0", RACK: f"{zone}-b0-r{number // NODES_PER_RACK}", HOST: name}
        labels |= place
        self.made[pool_name].append(labels)
        room = {"cpu": "96", "memory": "1Ti", "pods": "110"}
        about = {"name": name, "labels": labels, "annotations": {**FAKE, PROVISIONING: self._start}}
        taints = pool["spec"]["template"]["spec"].get("taints", [])
        status = {"capacity": room, "allocatable": room}
        return self._core.create_node({"metadata": about, "spec": {"taints": taints}, "status": status})

    def _report(self, pool, nodes):
        used, name = self._used(pool, nodes), pool["metadata"]["name"]
        self.most[name] = max(self.most[name], used)
        body = {"status": {"resources": {ACCELERATOR_RESOURCE: str(used)}}}
        self._custom.patch_cluster_custom_object_status("karpenter.sh", "v1", "nodepools", name, body)

    def _consolidate(self, pool, nodes, pods):
        """End nodes that are empty for as long as their pool says."""
        after_s = int(pool["spec"]["disruption"]["consolidateAfter"].removesuffix("s"))
        alive = {pod.metadata.uid for pod in pods}
        busy = {pod.spec.node_name for pod in pods}
        busy |= {name for uid, name in self._planned.items() if uid in alive}
        for node in _of(pool, nodes):
            name = node.metadata.name
            if name in busy or KARPENTER_INITIALIZED not in node.metadata.labels:
                self._empty_since_s.pop(name, None)
            elif time.monotonic() - self._empty_since_s.setdefault(name, time.monotonic()) > after_s:
                self._core.delete_node(name)


def labels_for(asked, pool):
    """Return the labels of a node of the pool that a pod with this selector could run on, or None."""
    template = pool["spec"]["template"]
    fixed = {**template["metadata"]["labels"], KARPENTER_POOL: pool["metadata"]["name"]}
    needs = template["spec"]["requirements"]
    choices = {need["key"]: need["values"] for need in needs if need["operator"] == "In"}
    free = {need["key"] for need in needs if need["operator"] == "Exists"}
    for key, value in asked.items():
        if key not in free and value not in choices.get(key, [fixed.get(key)]):
            return None
    made_up = dict.fromkeys(free, "1000000")
    return fixed | {key: values[0] for key, values in choices.items()} | made_up | asked


def _of(pool, nodes):
    name = pool["metadata"]["name"]
    return [node for node in nodes.values() if node.metadata.labels[KARPENTER_POOL] == name]


def _limit(pool):
    return int(pool["spec"]["limits"][ACCELERATOR_RESOURCE])


def _gpus(pod):
    return sum(int((c.resources.limits or {}).get(ACCELERATOR_RESOURCE, 0)) for c in pod.spec.containers)


def _unschedulable(pod):
    gated = bool(pod.spec.scheduling_gates)
    said = any(c.type == "PodScheduled" and c.reason == "Unschedulable" for c in pod.status.conditions or ())
    return said and not gated and not pod.spec.node_name and not pod.metadata.deletion_timestamp
