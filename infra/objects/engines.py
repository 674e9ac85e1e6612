"""Engine containers beside the worker, for engines that are servers of their own."""

from infra.config import ImagesConfig
from infra.objects.names import Object
from infra.objects.pods import container_security, http_probe, scratch
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
            *(_vllm(policy, stage) if vllm else _sglang(policy, stage)),
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


def _vllm(policy: Policy, stage: Stage) -> list[str]:
    of_stage = policy.stages[stage]
    args = ["--model", *_names(policy), "--port", str(PORT), "--tensor-parallel-size", str(of_stage.tp)]
    args += ["--max-num-seqs", str(of_stage.batch)]
    return [*args, *_context("--max-model-len", policy), *of_stage.flags]


def _sglang(policy: Policy, stage: Stage) -> list[str]:
    of_stage = policy.stages[stage]
    args = ["python3", "-m", "sglang.launch_server", "--model-path", *_names(policy)]
    args += ["--port", str(PORT), "--tp", str(of_stage.tp), "--max-running-requests", str(of_stage.batch)]
    role = ["--encoder-only"] if stage is Stage.ENCODE else ["--disaggregation-mode", stage.value]
    return [*args, *role, *_context("--context-length", policy), *of_stage.flags]


def _names(policy: Policy) -> list[str]:
    """Return what a server loads, and the name under which clients ask for it."""
    return [policy.model.weights or policy.model.name, "--served-model-name", policy.model.name]


def _context(flag: str, policy: Policy) -> list[str]:
    return [flag, str(policy.model.max_context)] if policy.model.max_context else []
