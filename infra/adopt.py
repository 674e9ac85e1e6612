"""Which nodes a selector means: the one question that the program asks a cluster."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import kubernetes
import urllib3
import yaml

from infra.config import ConfigError, StackConfig
from infra.node_config import LabelledNodes, NodePoolConfig

Find = Callable[[Mapping[str, str]], Sequence[str]]
"""Returns the names of the nodes that bear all of these labels."""


def adopt(config: StackConfig, find: Find) -> StackConfig:
    """Return the configuration with names in place of selectors; a cluster is asked only where one is.

    Raises:
        ConfigError: No node is meant, or a node would lie in two pools.
    """
    pools = {name: _adopted(name, pool, find) for name, pool in config.node_pools.items()}
    owner: dict[str, str] = {}
    for name, pool in pools.items():
        for node in pool.labels.nodes if pool.labels else ():
            if owner.setdefault(node, name) != name:
                raise ConfigError(f"`tercet:node_pools`: node {node} is in {owner[node]} and in {name}")
    return replace(config, node_pools=pools)


def _adopted(name: str, pool: NodePoolConfig, find: Find) -> NodePoolConfig:
    if not (pool.labels and pool.labels.selector):
        return pool
    nodes = tuple(sorted(find(pool.labels.selector)))
    if not nodes:
        wanted = _written(pool.labels.selector)
        raise ConfigError(f"`tercet:node_pools.{name}.labels.selector`: no node has {wanted}")
    return replace(pool, labels=LabelledNodes(nodes=nodes, labels=pool.labels.labels))


def finder(values: Mapping[str, str]) -> Find:
    """Return how to ask the cluster that Pulumi's provider would go to by the same configuration.

    Args:
        values: Pulumi's by full key; `kubernetes:kubeconfig` is a file or its content.
    """

    def find(selector: Mapping[str, str]) -> Sequence[str]:
        try:
            with _client(values.get("kubernetes:kubeconfig"), values.get("kubernetes:context")) as client:
                core = kubernetes.client.CoreV1Api(client)
                answer = core.list_node(label_selector=_written(selector), _preload_content=False)
        except (
            kubernetes.config.ConfigException,
            kubernetes.client.ApiException,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise ConfigError(f"a selector of nodes needs the cluster: {error}") from error
        return [node["metadata"]["name"] for node in json.loads(answer.data)["items"]]

    return find


def _written(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def _client(kubeconfig: str | None, context: str | None) -> kubernetes.client.ApiClient:
    if kubeconfig and "\n" in kubeconfig:
        return kubernetes.config.new_client_from_config_dict(yaml.safe_load(kubeconfig), context=context)
    file = str(Path(kubeconfig).expanduser()) if kubeconfig else None
    return kubernetes.config.new_client_from_config(file, context=context)
