"""Engine containers beside the worker, for engines that are servers of their own."""

from infra.config import ImagesConfig
from infra.objects.names import Object
from infra.objects.pods import container_security, http_probe, scratch
from orchestrator.engine_arguments import handover_arguments, sglang_arguments, vllm_arguments
from orchestrator.policy import Policy
from stages.types import Stage

PORT = 8000
START_S = 1800
"""Fetching and loading the weights of a large model may take as long."""
_RENDEZVOUS_PORT = 20_000
_EMBEDDINGS = {"ec_connector": "ECCPUConnector"}
"""Prefill pulls embeddings out of encode's memory over NIXL: pods need no folder that they share."""
_KV = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def engine_container(
    policy: Policy,
    stage: Stage,
    images: ImagesConfig,
    resources: Object,
    *,
    nodes: int = 1,
    leads: bool = True,
) -> tuple[Object, list[Object]]:
    """Return the container of a stage's engine and its volumes.

    Args:
        policy: Of the service.
        stage: It.
        images: By engine.
        resources: Of one container.
        nodes: Pods of a LeaderWorkerSet's group that one engine spans.
        leads: Whether this is the first of them, the only one that answers.
    """
    vllm = policy.stages[stage].engine == "vllm"
    drain_s = max(policy.stages[role].drain_s for role in policy.roles(stage))
    volume, mount = scratch("engine", "/root-writable")
    memory, shared = scratch("dshm", "/dev/shm", in_memory=True)  # noqa: S108  # what NCCL looks for
    arguments = vllm_arguments if vllm else sglang_arguments
    container: Object = {
        "name": "engine",
        "image": images.vllm if vllm else images.sglang,
        "args": [
            # Before the policy's flags, of which the last counts.
            *(handover_arguments(policy, stage, _EMBEDDINGS, _KV) if vllm else ()),
            *arguments(policy, stage, PORT),
            *(_group(vllm=vllm, leads=leads) if nodes > 1 else ()),
        ],
        "env": [{"name": "HOME", "value": "/root-writable"}, *(_peer_environment() if vllm else ())],
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": [mount, shared],
        # The worker drains on its own; the engine has to outlive it.
        "lifecycle": {"preStop": {"sleep": {"seconds": drain_s}}},
    }
    return container | (_answering() if leads else {}), [volume, memory]


def _peer_environment() -> list[Object]:
    """Return where vLLM tells others to fetch embeddings and KV caches from; as it comes, localhost."""
    ours = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return [
        {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", **ours},
        {"name": "VLLM_EC_SIDE_CHANNEL_HOST", **ours},
        {"name": "VLLM_USE_V2_MODEL_RUNNER", "value": "1"},  # ECCPUConnector needs it
    ]


def _answering() -> Object:
    return {
        "ports": [{"name": "engine", "containerPort": PORT}],
        "startupProbe": http_probe("/health", PORT, periodSeconds=5, failureThreshold=START_S // 5),
        "readinessProbe": http_probe("/health", PORT, periodSeconds=5),
    }


def _group(*, vllm: bool, leads: bool) -> list[str]:
    """Return how the pods of a group find each other: LeaderWorkerSet sets these variables.

    Sources: vLLM's and SGLang's pages on LeaderWorkerSet.
    """
    rank = ["--nnodes", "$(LWS_GROUP_SIZE)", "--node-rank", "$(LWS_WORKER_INDEX)"]
    if vllm:
        return [*rank, "--master-addr", "$(LWS_LEADER_ADDRESS)", *([] if leads else ["--headless"])]
    return [*rank, "--dist-init-addr", f"$(LWS_LEADER_ADDRESS):{_RENDEZVOUS_PORT}"]
