"""The cluster over the Kubernetes API."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from orchestrator.adapters.kube_resources import asked, free
from orchestrator.core.observed import Node
from orchestrator.core.pools import Admit, Pod, Pool, Scale
from orchestrator.kube_names import (
    DELETION_COST,
    DOMAIN,
    GATE,
    GROUP,
    HARDWARE,
    NODE,
    PLACED_UNIX_S,
    SERVICE,
    STAGE,
    resource_of,
)
from orchestrator.ports import ClusterUnavailable, ClusterView
from stages.types import Stage

Object = Mapping[str, Any]

_TIMEOUT_S = 10.0
_FIRST_TO_GO = "-1000"
_MERGE = "application/merge-patch+json"
_ENDED = ("Succeeded", "Failed")
_ALIVE = ",".join([f"status.phase!={phase}" for phase in _ENDED])


class NoCluster(Exception):
    """No cluster is named anywhere."""


def client_of(kubeconfig: Path | None) -> kubernetes.client.ApiClient:
    """Return a client by a kubeconfig file, or else by the pod's service account, or else by ~/.kube/config.

    Raises:
        NoCluster: There is none of them.
    """
    settings = kubernetes.client.Configuration()
    try:
        if kubeconfig is not None or "KUBERNETES_SERVICE_HOST" not in os.environ:
            file = None if kubeconfig is None else str(kubeconfig)
            kubernetes.config.load_kube_config(file, client_configuration=settings)
        else:
            kubernetes.config.load_incluster_config(client_configuration=settings)
    except kubernetes.config.ConfigException as error:
        raise NoCluster(f"{error}; name a cluster with --kubeconfig FILE") from error
    return kubernetes.client.ApiClient(settings)


class KubeCluster:
    """`orchestrator.ports.Cluster` in one namespace of one Kubernetes cluster.

    Args:
        client: Of that cluster.
        namespace: Where the pools are.
        services: Whose pools are ours to scale; others are left alone.
        levels: Node labels of the topology, widest first.
    """

    def __init__(
        self,
        client: kubernetes.client.ApiClient,
        namespace: str,
        services: Sequence[str],
        levels: Sequence[str],
    ) -> None:
        self._core = kubernetes.client.CoreV1Api(client)
        self._apps = kubernetes.client.AppsV1Api(client)
        self._namespace = namespace
        self._selector = f"{SERVICE} in ({','.join(sorted(services))})"
        self._levels = tuple(levels)
        self._names: Mapping[Pool, str] = {}

    def look(self, now_s: float) -> ClusterView:
        """See `Cluster.look`; the clock is in seconds since 1970."""
        ours, selector = self._namespace, self._selector
        pools = _items(self._apps.list_namespaced_deployment, ours, label_selector=selector)
        mine = _items(self._core.list_namespaced_pod, ours, label_selector=selector)
        everywhere = _items(self._core.list_pod_for_all_namespaces, field_selector=_ALIVE)
        nodes = _items(self._core.list_node, label_selector=HARDWARE)
        pods = [self._pod(pod) for pod in mine if pod.get("status", {}).get("phase") not in _ENDED]
        names = {pod.name for pod in pods}
        foreign = [p for p in everywhere if not (_namespace(p) == self._namespace and _name(p) in names)]
        holders = _by_node(foreign)
        self._names = {pool_of(each): _name(each) for each in pools}
        return ClusterView(
            counts={pool_of(each): int(each["spec"].get("replicas", 1)) for each in pools},
            pods=tuple(pods),
            nodes=tuple(self._node(node, holders[_name(node)]) for node in nodes),
        )

    def admit(self, admit: Admit, now_s: float) -> None:
        """See `Cluster.admit`: the domain becomes the pod's node selector, and the gate goes."""
        pod = ask(self._core.read_namespaced_pod, admit.pod, self._namespace)
        if pod is None:
            return
        create = admit.create
        gates = [gate for gate in pod["spec"].get("schedulingGates", ()) if gate["name"] != GATE]
        domain = dict(zip(self._levels, create.domain, strict=False))
        body = {
            "metadata": {
                # What was looked at is what is changed: somebody else's edit in between is a conflict.
                "resourceVersion": pod["metadata"]["resourceVersion"],
                "labels": {GROUP: create.group},
                "annotations": {
                    NODE: create.node_id,
                    PLACED_UNIX_S: f"{now_s:.3f}",
                    DOMAIN: json.dumps(create.domain),
                },
            },
            "spec": {"schedulingGates": gates, "nodeSelector": domain},
        }
        ask(self._core.patch_namespaced_pod, admit.pod, self._namespace, body=body, _content_type=_MERGE)

    def scale(self, scale: Scale) -> None:
        """See `Cluster.scale`: victims get the lowest deletion cost before the count falls."""
        ours = self._namespace
        cost = {"metadata": {"annotations": {DELETION_COST: _FIRST_TO_GO}}}
        for victim in scale.victims:
            ask(self._core.patch_namespaced_pod, victim, ours, body=cost, _content_type=_MERGE)
        count = {"spec": {"replicas": scale.replicas}}
        patch = self._apps.patch_namespaced_deployment_scale
        ask(patch, self._names[scale.pool], ours, body=count, _content_type=_MERGE)

    def _pod(self, pod: Object) -> Pod:
        spec, status, metadata = pod["spec"], pod.get("status", {}), pod["metadata"]
        notes, bound = metadata.get("annotations", {}), spec.get("nodeName", "")
        gated = any(gate["name"] == GATE for gate in spec.get("schedulingGates", ()))
        ready, pool = _condition(status, "Ready"), pool_of(pod)
        return Pod(
            name=_name(pod),
            pool=pool,
            tp=int(asked(pod, resource_of(pool.hardware))),
            gated=gated,
            node_id="" if gated else bound or notes.get(NODE, ""),
            bound=bool(bound),
            group=metadata.get("labels", {}).get(GROUP, ""),
            ready=ready is not None and ready["status"] == "True",
            leaving="deletionTimestamp" in metadata,
            since_s=_since_unix_s(metadata, ready),
        )

    def _node(self, node: Object, holders: Iterable[Object]) -> Node:
        labels = node["metadata"].get("labels", {})
        domain: list[str] = []
        for level in self._levels:
            if level not in labels:
                break  # what lies below an unknown level cannot be told apart
            domain.append(labels[level])
        ready = _condition(node.get("status", {}), "Ready")
        return Node(
            node_id=_name(node),
            hardware=labels[HARDWARE],
            accelerators=free(node, resource_of(labels[HARDWARE]), holders),
            domain=tuple(domain),
            ready=bool(ready and ready["status"] == "True" and not node["spec"].get("unschedulable")),
        )


def _items(call: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    found = ask(call, *arguments, **options)
    return list(found["items"]) if found else []


def ask(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return the answer as JSON, which is several times quicker than the client's objects; None on 404.

    Raises:
        ClusterUnavailable: There was no answer, or another refusal.
    """
    try:
        answer = call(*arguments, **options, _preload_content=False, _request_timeout=_TIMEOUT_S)
    except ApiException as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise ClusterUnavailable(f"{call.__name__}: {error.status} {error.reason}: {_why(error)}") from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterUnavailable(f"{call.__name__}: {error}") from error
    return json.loads(answer.data)


def _why(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (KeyError, TypeError, ValueError):
        return "no message"


def pool_of(thing: Object) -> Pool:
    """Return the pool of a Deployment or a pod, from its labels."""
    labels = thing["metadata"]["labels"]
    return Pool(labels[SERVICE], Stage(labels[STAGE]), labels[HARDWARE])


def _by_node(pods: Iterable[Object]) -> Mapping[str, list[Object]]:
    bound: defaultdict[str, list[Object]] = defaultdict(list)
    for pod in pods:
        bound[pod["spec"].get("nodeName", "")].append(pod)
    return bound


def _condition(status: Object, kind: str) -> Object | None:
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), None)


def _since_unix_s(metadata: Object, ready: Object | None) -> float:
    if ready and ready["status"] == "True":
        return unix_s(ready["lastTransitionTime"])
    placed = metadata.get("annotations", {}).get(PLACED_UNIX_S)
    return float(placed) if placed else unix_s(metadata["creationTimestamp"])


def unix_s(text: str) -> float:
    """Return a time of the API in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def _name(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def _namespace(thing: Object) -> str:
    return str(thing["metadata"].get("namespace", ""))
