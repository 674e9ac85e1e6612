"""Engine containers beside the worker, for engines that are servers of their own."""

from infra.config import ImagesConfig
from infra.objects.names import Object
from infra.objects.pods import container_security, http_probe, scratch
from orchestrator.engine_arguments import sglang_arguments, vllm_arguments
from orchestrator.policy import Policy
from stages.types import Stage

PORT = 8000
_START_S = 1800
_RENDEZVOUS_PORT = 20_000


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
    of_stage = policy.stages[stage]
    vllm = of_stage.engine == "vllm"
    volume, mount = scratch("engine", "/root-writable")
    memory, shared = scratch("dshm", "/dev/shm", in_memory=True)  # noqa: S108  # what NCCL looks for
    container: Object = {
        "name": "engine",
        "image": images.vllm if vllm else images.sglang,
        "args": [
            *(vllm_arguments if vllm else sglang_arguments)(policy, stage, PORT),
            *(_group(vllm=vllm, leads=leads) if nodes > 1 else ()),
        ],
        "env": [{"name": "HOME", "value": "/root-writable"}],
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": [mount, shared],
        # The worker drains on its own; the engine has to outlive it.
        "lifecycle": {"preStop": {"sleep": {"seconds": of_stage.drain_s}}},
    }
    return container | (_answering() if leads else {}), [volume, memory]


def _answering() -> Object:
    return {
        "ports": [{"name": "engine", "containerPort": PORT}],
        "startupProbe": http_probe("/health", PORT, periodSeconds=5, failureThreshold=_START_S // 5),
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
