"""`cluster`: what a control plane of 2,000 simulated nodes with 8 GPUs each takes of this machine."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kubernetes

from bench.processes import CpuMeter
from bench.report import Figure, Say, figure
from cli.cluster import LEVELS
from cli.cluster_nodes import add_nodes
from localcluster.cluster import Cluster, running_cluster
from orchestrator.kube_names import ACCELERATOR_RESOURCE, ACCELERATOR_TAINT
from orchestrator.simulator.fleet_spec import parse_fleet

_POOLS = ("encode", "prefill", "decode")
_GPUS_PER_NODE, _GPUS_PER_POD = 8, 4
_READY_S, _SETTLE_S, _POLL_S, _SAMPLE_S = 900.0, 30.0, 2.0, 1.0


def run(say: Say, quick: bool) -> list[Figure]:
    """Start, add nodes, then pods, wait for each, rest."""
    nodes, pods, rest_s = (200, 30, 15.0) if quick else (2_000, 300, 60.0)
    started_s = time.monotonic()
    with running_cluster(say) as cluster, _Memory(_pids(cluster)) as memory:
        up_s = time.monotonic() - started_s
        kube = _Kube(cluster)
        nodes_s = _timed(lambda: _add_nodes(cluster, kube, nodes))
        say(f"{nodes} nodes ready after {nodes_s:.0f} s, peak {memory.most_mb:.0f} MB")
        pods_s = _timed(lambda: _add_pods(cluster, kube, pods))
        say(f"{pods} pods ready after {pods_s:.0f} s, peak {memory.most_mb:.0f} MB")
        time.sleep(_SETTLE_S)
        cores = _busy(cluster, rest_s)
        for name, pid in _pids(cluster).items():
            say(f"{name}: {_pss_mb(pid):.0f} MB, {cores[name]:.3f} cores at rest")
        at_rest_mb = memory.read_mb()
        return [
            figure("cluster.up", [up_s], "s"),
            figure("cluster.nodes", [nodes], "nodes"),
            figure("cluster.gpus", [nodes * _GPUS_PER_NODE], "GPUs"),
            figure("cluster.nodes.ready", [nodes_s], "s"),
            figure("cluster.pods", [pods], "pods"),
            figure("cluster.pods.ready", [pods_s], "s"),
            figure("cluster.memory.peak", [memory.most_mb], "MB", goal="<= 4000"),
            figure("cluster.memory.rest", [at_rest_mb], "MB"),
            figure("cluster.disk", [_disk_mb(cluster.folder)], "MB"),
            figure("cluster.rest", [sum(cores.values())], "cores"),
        ]


class _Kube:
    """Counts of a cluster, from the API server's own cache."""

    def __init__(self, cluster: Cluster) -> None:
        client = kubernetes.config.new_client_from_config(str(cluster.kubeconfig))
        self.apps = kubernetes.client.AppsV1Api(client)
        self._core = kubernetes.client.CoreV1Api(client)

    def ready_nodes(self) -> int:
        return _ready(self._core.list_node)

    def ready_pods(self) -> int:
        return _ready(self._core.list_namespaced_pod, "default")


def _ready(listed: Callable[..., Any], *arguments: str) -> int:
    answer = listed(*arguments, resource_version="0", _preload_content=False)
    return sum(map(_is_ready, json.loads(answer.data)["items"]))


def _is_ready(thing: Mapping[str, Any]) -> bool:
    conditions = thing["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _add_nodes(cluster: Cluster, kube: _Kube, nodes: int) -> None:
    levels = tuple(LEVELS.split(","))
    add_nodes(cluster.kubeconfig, parse_fleet(f"h100={nodes}x{_GPUS_PER_NODE}", levels), levels)
    _until(cluster, lambda: kube.ready_nodes() == nodes)


def _add_pods(cluster: Cluster, kube: _Kube, pods: int) -> None:
    for pool in _POOLS:
        kube.apps.create_namespaced_deployment("default", _deployment(pool, pods // len(_POOLS)))
    _until(cluster, lambda: kube.ready_pods() == pods)


def _deployment(name: str, replicas: int) -> Mapping[str, Any]:
    labels, limits = {"app": name}, {ACCELERATOR_RESOURCE: str(_GPUS_PER_POD)}
    container = {"name": "engine", "image": "engine", "resources": {"limits": limits}}
    toleration = {"key": ACCELERATOR_TAINT["key"], "operator": "Exists"}
    pod = {"containers": [container], "tolerations": [toleration]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def _until(cluster: Cluster, done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _READY_S
    while not done():
        cluster.processes.check()
        if time.monotonic() > end_s:
            raise TimeoutError(f"not ready within {_READY_S:.0f} s")
        time.sleep(_POLL_S)


def _timed(step: Callable[[], None]) -> float:
    started_s = time.monotonic()
    step()
    return time.monotonic() - started_s


def _busy(cluster: Cluster, seconds: float) -> Mapping[str, float]:
    """Return how many cores each process keeps busy, on average over the next `seconds`."""
    meter = CpuMeter(_pids(cluster))
    time.sleep(seconds)
    return {name: used_s / seconds for name, used_s in meter.read_s().items()}


def _pids(cluster: Cluster) -> Mapping[str, int]:
    """Return the control plane's processes, and this one, which is there in the place of `tercet cluster`."""
    return {**cluster.processes.pids(), "tercet": os.getpid()}


class _Memory:
    """What processes hold together, looked at every second while in the context.

    Attributes:
        most_mb: The most so far.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.most_mb = 0.0

    def __enter__(self) -> "_Memory":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()

    def read_mb(self) -> float:
        read_mb = sum(map(_pss_mb, self._pids.values()))
        self.most_mb = max(self.most_mb, read_mb)
        return read_mb

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.read_mb()


def _pss_mb(pid: int) -> float:
    """Return a process's resident memory, of pages shared with others its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no Pss of {pid}")


def _disk_mb(folder: Path) -> float:
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file()) / 1e6
