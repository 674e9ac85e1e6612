"""The cluster over the Kubernetes API."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import takewhile
from pathlib import Path
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from orchestrator.adapters.karpenter import Made, leaves, made_of, node_pools, selector_of
from orchestrator.adapters.kube_resources import asked, free
from orchestrator.core.changes import Create
from orchestrator.core.observed import Node
from orchestrator.core.orders import is_order, orderable
from orchestrator.core.pools import Admit, Inform, Move, Pod, Pool, Scale
from orchestrator.kube_names import (
    DELETION_COST,
    DOMAIN,
    GATE,
    GROUP,
    HARDWARE,
    KARPENTER,
    MOVABLE,
    NODE,
    PLACED_UNIX_S,
    SERVICE,
    STAGE,
    resource_of,
)
from orchestrator.ports import ClusterUnavailable, ClusterView
from stages.engines import EXIT_ROLE_REFUSED
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
        karpenter: Whether nodes that Karpenter could make are offered.
    """

    def __init__(
        self,
        client: kubernetes.client.ApiClient,
        namespace: str,
        services: Sequence[str],
        levels: Sequence[str],
        *,
        karpenter: bool = False,
    ) -> None:
        self._core = kubernetes.client.CoreV1Api(client)
        self._apps = kubernetes.client.AppsV1Api(client)
        self._custom = kubernetes.client.CustomObjectsApi(client)
        self._namespace = namespace
        self._selector = f"{SERVICE} in ({','.join(sorted(services))})"
        self._levels = tuple(levels)
        self._karpenter = karpenter
        self._names: Mapping[Pool, str] = {}
        self._made = Made()

    def look(self, now_s: float) -> ClusterView:
        """See `Cluster.look`; the clock is in seconds since 1970."""
        ours, selector = self._namespace, self._selector
        pools = _items(self._apps.list_namespaced_deployment, ours, label_selector=selector)
        mine = _items(self._core.list_namespaced_pod, ours, label_selector=selector)
        everywhere = _items(self._core.list_pod_for_all_namespaces, field_selector=_ALIVE)
        nodes = _items(self._core.list_node, label_selector=HARDWARE)
        self._made = made_of(nodes) if self._karpenter else Made()
        mine = [pod for pod in mine if pod.get("status", {}).get("phase") not in _ENDED]
        pods = [self._pod(pod) for pod in mine]
        names = {pod.name for pod in pods}
        foreign = [p for p in everywhere if not (_namespace(p) == self._namespace and _name(p) in names)]
        holders = _by_node(foreign)
        self._names = {pool_of(each): _name(each) for each in pools}
        ordered, orders = self._orderable(pods)
        there = [node for node in nodes if _name(node) not in self._made.coming]
        return ClusterView(
            counts={pool_of(each): int(each["spec"].get("replicas", 1)) for each in pools},
            pods=tuple(pods),
            nodes=(*[self._node(node, holders[_name(node)]) for node in there], *ordered),
            orders=orders,
            inform=tuple(self._misinformed(mine, nodes)),
        )

    def admit(self, admit: Admit, now_s: float) -> None:
        """See `Cluster.admit`: the domain becomes the pod's node selector, and the gate goes."""
        pod = ask(self._core.read_namespaced_pod, admit.pod, self._namespace)
        if pod is None:
            return
        create = admit.create
        gates = [gate for gate in pod["spec"].get("schedulingGates", ()) if gate["name"] != GATE]
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
            "spec": {"schedulingGates": gates, "nodeSelector": self._selector_for(create)},
        }
        ask(self._core.patch_namespaced_pod, admit.pod, self._namespace, body=body, _content_type=_MERGE)

    def move(self, move: Move, now_s: float) -> None:
        """See `Cluster.move`: the pod gets the labels of what waits, whose ReplicaSet then adopts it.

        That then has one more than it is to have, and deletes what has no node first.
        """
        waiting = ask(self._core.read_namespaced_pod, move.stands_for, self._namespace)
        pod = ask(self._core.read_namespaced_pod, move.pod, self._namespace)
        if not (waiting and pod) or "deletionTimestamp" in pod["metadata"] | waiting["metadata"]:
            return
        body = {
            "metadata": {
                "resourceVersion": pod["metadata"]["resourceVersion"],
                "labels": waiting["metadata"]["labels"],
                "annotations": {PLACED_UNIX_S: f"{now_s:.3f}"},
            }
        }
        ask(self._core.patch_namespaced_pod, move.pod, self._namespace, body=body, _content_type=_MERGE)

    def inform(self, inform: Inform) -> None:
        """See `Cluster.inform`."""
        body = {"metadata": {"annotations": {DOMAIN: json.dumps(inform.domain)}}}
        ask(self._core.patch_namespaced_pod, inform.pod, self._namespace, body=body, _content_type=_MERGE)

    def scale(self, scale: Scale) -> None:
        """See `Cluster.scale`: victims get the lowest deletion cost before the count falls."""
        ours = self._namespace
        cost = {"metadata": {"annotations": {DELETION_COST: _FIRST_TO_GO}}}
        for victim in scale.victims:
            ask(self._core.patch_namespaced_pod, victim, ours, body=cost, _content_type=_MERGE)
        count = {"spec": {"replicas": scale.replicas}}
        patch = self._apps.patch_namespaced_deployment_scale
        ask(patch, self._names[scale.pool], ours, body=count, _content_type=_MERGE)

    def _selector_for(self, create: Create) -> dict[str, str]:
        """Return by which labels a pod finds its place: of a node that was made to order, that very node.

        A pod that waited for another node of the domain would have Karpenter make one more.
        """
        levels = zip(self._levels, create.domain, strict=False)
        known = {level: value for level, value in levels if not is_order(value)}
        order = self._made.orders.get(create.node_id, create.node_id)
        return known | (selector_of(order) if is_order(order) else {})

    def _orderable(self, pods: Iterable[Pod]) -> tuple[tuple[Node, ...], Mapping[str, int]]:
        if not self._karpenter:
            return (), {}
        coming = {self._made.orders[name] for name in self._made.coming}
        awaited = coming | {pod.node_id for pod in pods if is_order(pod.node_id)}
        found = _items(self._custom.list_cluster_custom_object, KARPENTER, "v1", "nodepools")
        made = set(self._made.orders.values()) - coming
        return orderable(node_pools(found, self._levels), made, awaited, len(self._levels))

    def _misinformed(self, pods: Iterable[Object], nodes: Iterable[Object]) -> Iterator[Inform]:
        """Yield pods that have not started and were told another domain than their node has."""
        domains = {_name(node): self._domain(node["metadata"]["labels"]) for node in nodes}
        ordered = {order: domains[name] for order, name in self._made.nodes.items()}
        for pod in pods:
            notes = pod["metadata"].get("annotations", {})
            domain = ordered.get(notes.get(NODE, ""))
            if domain is not None and not _is_ready(pod) and list(domain) != json.loads(notes[DOMAIN]):
                yield Inform(pod=_name(pod), domain=domain)

    def _pod(self, pod: Object) -> Pod:
        spec, status, metadata = pod["spec"], pod.get("status", {}), pod["metadata"]
        notes, bound = metadata.get("annotations", {}), spec.get("nodeName", "")
        gated = any(gate["name"] == GATE for gate in spec.get("schedulingGates", ()))
        ready, pool = _condition(status, "Ready"), pool_of(pod)
        return Pod(
            name=_name(pod),
            pool=pool,
            tp=int(asked(pod, resource_of(pool.hardware))),
            movable=MOVABLE in notes,
            gated=gated,
            node_id="" if gated else self._made.place(bound or notes.get(NODE, "")),
            bound=bool(bound),
            group=metadata.get("labels", {}).get(GROUP, ""),
            ready=_is_ready(pod),
            leaving="deletionTimestamp" in metadata,
            failed=not _is_ready(pod) and _has_failed(status),
            since_s=_since_unix_s(metadata, ready),
        )

    def _node(self, node: Object, holders: Iterable[Object]) -> Node:
        labels = node["metadata"]["labels"]
        closed = node["spec"].get("unschedulable") or (self._karpenter and leaves(node))
        return Node(
            node_id=_name(node),
            hardware=labels[HARDWARE],
            accelerators=free(node, resource_of(labels[HARDWARE]), holders),
            domain=self._domain(labels),
            ready=_is_ready(node) and not closed,
        )

    def _domain(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        # What lies below an unknown level cannot be told apart.
        return tuple(labels[level] for level in takewhile(labels.__contains__, self._levels))


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


def _is_ready(thing: Object) -> bool:
    ready = _condition(thing.get("status", {}), "Ready")
    return ready is not None and ready["status"] == "True"


def _condition(status: Object, kind: str) -> Object | None:
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), None)


def _since_unix_s(metadata: Object, ready: Object | None) -> float:
    placed = metadata.get("annotations", {}).get(PLACED_UNIX_S)
    if ready and ready["status"] == "True":  # one that was moved later may be so still
        return max(unix_s(ready["lastTransitionTime"]), float(placed or 0.0))
    return float(placed) if placed else unix_s(metadata["creationTimestamp"])


def _has_failed(status: Object) -> bool:
    """Return whether a container of a pod has ended, and said that starting it again is in vain."""
    ends = [
        state.get("terminated", {})
        for container in status.get("containerStatuses", ())
        for state in (container.get("state", {}), container.get("lastState", {}))
    ]
    return any(end.get("exitCode") == EXIT_ROLE_REFUSED for end in ends)


def unix_s(text: str) -> float:
    """Return a time of the API in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def _name(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def _namespace(thing: Object) -> str:
    return str(thing["metadata"].get("namespace", ""))
