"""What the program asks a cluster: which nodes a selector means, and whether Prometheus Operator is there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import kubernetes
import urllib3
import yaml

from infra.config import ConfigError, StackConfig
from infra.node_config import LabelledNodes, NodePoolConfig
from infra.objects.observability import MONITORING
from orchestrator.yaml_fields import InfeasibleError


class Cluster(Protocol):
    """Whom the program asks."""

    def nodes(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Return the names of the nodes that bear all of these labels."""

    def serves(self, api_version: str) -> bool:
        """Return whether it has an API such as `example.com/v1`."""


def adopt(config: StackConfig, cluster: Cluster) -> StackConfig:
    """Return the configuration with what the cluster says put in; it is asked only where it has to be.

    Raises:
        ConfigError: No node is meant, a node would lie in two pools, or a scaler goes by monitors that the
            cluster cannot have.
    """
    pools = {name: _adopted(name, pool, cluster) for name, pool in config.node_pools.items()}
    owner: dict[str, str] = {}
    for name, pool in pools.items():
        for node in pool.labels.nodes if pool.labels else ():
            if owner.setdefault(node, name) != name:
                raise ConfigError(f"`tercet:node_pools`: node {node} is in {owner[node]} and in {name}")
    return _watched(replace(config, node_pools=pools), cluster)


def _watched(config: StackConfig, cluster: Cluster) -> StackConfig:
    seen = config.observability
    if seen is None or seen.monitors is not None:
        return config
    try:
        return replace(config, observability=replace(seen, monitors=cluster.serves(MONITORING)))
    except InfeasibleError as error:
        raise ConfigError(f"the cluster has no Prometheus Operator ({MONITORING}), and {error}") from error


def _adopted(name: str, pool: NodePoolConfig, cluster: Cluster) -> NodePoolConfig:
    if not (pool.labels and pool.labels.selector):
        return pool
    nodes = tuple(sorted(cluster.nodes(pool.labels.selector)))
    if not nodes:
        wanted = _written(pool.labels.selector)
        raise ConfigError(f"`tercet:node_pools.{name}.labels.selector`: no node has {wanted}")
    return replace(pool, labels=LabelledNodes(nodes=nodes, labels=pool.labels.labels))


@dataclass(frozen=True)
class ProviderCluster:
    """The cluster that Pulumi's provider would go to by the same configuration.

    Args:
        values: Pulumi's by full key; `kubernetes:kubeconfig` is a file or its content.
    """

    values: Mapping[str, str]

    def nodes(self, labels: Mapping[str, str]) -> Sequence[str]:
        """See `Cluster`. Raises ConfigError if it cannot be reached."""
        with self._asked("a selector of nodes") as client:
            core = kubernetes.client.CoreV1Api(client)
            answer = core.list_node(label_selector=_written(labels), _preload_content=False)
            return [node["metadata"]["name"] for node in json.loads(answer.data)["items"]]

    def serves(self, api_version: str) -> bool:
        """See `Cluster`. Raises ConfigError if it cannot be reached."""
        with self._asked("observability.monitors that is neither true nor false") as client:
            try:
                kubernetes.client.CustomObjectsApi(client).get_api_resources(*api_version.split("/"))
            except kubernetes.client.ApiException as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                return False
            return True

    @contextmanager
    def _asked(self, what: str) -> Iterator[kubernetes.client.ApiClient]:
        values = self.values
        try:
            with _client(values.get("kubernetes:kubeconfig"), values.get("kubernetes:context")) as client:
                yield client
        except (
            kubernetes.config.ConfigException,
            kubernetes.client.ApiException,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise ConfigError(f"{what} needs the cluster: {error}") from error


def _written(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def _client(kubeconfig: str | None, context: str | None) -> kubernetes.client.ApiClient:
    if kubeconfig and "\n" in kubeconfig:
        return kubernetes.config.new_client_from_config_dict(yaml.safe_load(kubeconfig), context=context)
    file = str(Path(kubeconfig).expanduser()) if kubeconfig else None
    return kubernetes.config.new_client_from_config(file, context=context)
