"""The decode engines of a service as an InferencePool of the Gateway API Inference Extension.

An inference gateway then sends whole requests to the engines, each of which is a complete server. Tercet's
gateway, and with it the split of stages, is passed by: this is plain serving on the same pods.
"""

import yaml

from infra.objects.engines import PORT
from infra.objects.names import Object, metadata, object_name
from infra.objects.network import engine_edges, part_labels
from infra.service_config import InferencePoolConfig
from orchestrator.policy import Policy
from stages.types import Stage

_SCORERS = {
    "pending_tokens": "queue-scorer",
    "prefix": "prefix-cache-scorer",
    "free_kv": "kv-cache-utilization-scorer",
}
"""Scorers of the endpoint picker by those of ours that they come nearest to; images it does not know."""

LEADER = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
"""Label of the only pod of a group that answers."""


def inference_pool_objects(
    policy: Policy, namespace: str, config: InferencePoolConfig, *, grouped: bool
) -> list[Object]:
    """Return the InferencePool, the picker's configuration, and the way in.

    Args:
        policy: Of the service, whose decode stage has a server for an engine.
        namespace: Of the stack.
        config: Who picks.
        grouped: Whether a replica is a group of pods.
    """
    name = object_name(policy.service, "inference")
    selector = part_labels(policy.service, Stage.DECODE.value) | (LEADER if grouped else {})
    pool = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": metadata(name, namespace),
        "spec": {
            "selector": {"matchLabels": selector},
            "targetPorts": [{"number": PORT}],
            "endpointPickerRef": {
                "kind": "Service",
                "name": config.picker,
                "port": {"number": config.picker_port},
                # Any replica is better than none.
                "failureMode": "FailOpen",
            },
        },
    }
    picker = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, namespace),
        "data": {"picker.yaml": yaml.safe_dump(_picker(policy), sort_keys=False)},
    }
    inside = {namespace, config.from_namespace or namespace}
    return [pool, picker, engine_edges(name, namespace, selector, PORT, sorted(inside))]


def _picker(policy: Policy) -> Object:
    """Return an EndpointPickerConfig, a file and no object, with the policy's weights of decode."""
    weights = policy.routing.weights(Stage.DECODE)
    scorers = {_SCORERS[name]: weight for name, weight in weights.items() if name in _SCORERS}
    picking = "max-score-picker"
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": name} for name in (*scorers, picking, "single-profile-handler")],
        "schedulingProfiles": [
            {
                "name": "default",
                "plugins": [
                    *({"pluginRef": name, "weight": weight} for name, weight in scorers.items()),
                    {"pluginRef": picking},
                ],
            }
        ],
    }
