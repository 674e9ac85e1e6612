"""Command lines of engine servers, as a policy asks for them: the same in a pod and on this machine."""

import json
from collections.abc import Mapping

from orchestrator.policy import Policy
from stages.types import Stage


def vllm_arguments(policy: Policy, stage: Stage, port: int) -> list[str]:
    """Return the arguments of vLLM's OpenAI server; the policy's own flags come last, and win."""
    of_stage = policy.stages[stage]
    args = ["--model", *_names(policy), "--port", str(port), "--tensor-parallel-size", str(of_stage.tp)]
    args += ["--max-num-seqs", str(of_stage.batch), *_context("--max-model-len", policy)]
    if stage is not Stage.ENCODE:
        args.append("--enable-scale-out")  # by which a lost answer is gone on with
    return [*args, *of_stage.flags]


def handover_arguments(
    policy: Policy, stage: Stage, embeddings: Mapping[str, object], kv: Mapping[str, object]
) -> list[str]:
    """Return the arguments by which vLLM's servers hand work on: embeddings to prefill, KV caches to decode.

    Args:
        policy: Says which stages there are.
        stage: Of the server.
        embeddings: The ECConnector's configuration without its role.
        kv: The KV connector's.
    """
    split, flags = policy.split, []
    prefills = stage is Stage.PREFILL or (stage is Stage.DECODE and split.prefill_from != 0)
    if split.encode_from is not None and (stage is Stage.ENCODE or prefills):
        role = "ec_producer" if stage is Stage.ENCODE else "ec_consumer"
        flags.append(f"--ec-transfer-config={json.dumps({**embeddings, 'ec_role': role})}")
    if split.prefill_from is not None and stage is not Stage.ENCODE:
        flags.append(f"--kv-transfer-config={json.dumps(kv)}")
    return flags


def sglang_arguments(policy: Policy, stage: Stage, port: int) -> list[str]:
    """Return the command of SGLang's server; the policy's own flags come last, and win."""
    of_stage = policy.stages[stage]
    args = ["python3", "-m", "sglang.launch_server", "--model-path", *_names(policy)]
    args += ["--host", "0.0.0.0", "--port", str(port)]  # noqa: S104  # else peers cannot reach it
    args += ["--tp", str(of_stage.tp), "--max-running-requests", str(_most_running(policy, stage))]
    args += ["--enable-metrics", *_sglang_role(policy, stage)]
    return [*args, *_context("--context-length", policy), *of_stage.flags]


def _sglang_role(policy: Policy, stage: Stage) -> list[str]:
    if stage is Stage.ENCODE:
        return ["--encoder-only"]
    mode = ["--disaggregation-mode", stage.value] if policy.split.prefill_from is not None else []
    # Without --encoder-urls: workers say which encoders there are.
    return [*mode, "--language-only"] if policy.encoders_called and stage is Stage.PREFILL else mode


def _most_running(policy: Policy, stage: Stage) -> int:
    """Return how many requests may be in a batch; a change of roles leaves that as it was at the start."""
    return max(policy.stages[role].batch for role in policy.roles(stage))


def _names(policy: Policy) -> list[str]:
    """Return what a server loads, and the name under which clients ask for it."""
    return [policy.model.weights or policy.model.name, "--served-model-name", policy.model.name]


def _context(flag: str, policy: Policy) -> list[str]:
    return [flag, str(policy.model.max_context)] if policy.model.max_context else []
