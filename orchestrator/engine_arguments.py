"""Command lines of engine servers, as a policy asks for them: the same in a pod and on this machine."""

import json
from collections.abc import Mapping

from orchestrator.policy import Policy
from stages.types import Stage

_EC_ROLE = {Stage.ENCODE: "ec_producer", Stage.PREFILL: "ec_consumer"}


def vllm_arguments(policy: Policy, stage: Stage, port: int) -> list[str]:
    """Return the arguments of vLLM's OpenAI server; the policy's own flags come last, and win."""
    of_stage = policy.stages[stage]
    args = ["--model", *_names(policy), "--port", str(port), "--tensor-parallel-size", str(of_stage.tp)]
    args += ["--max-num-seqs", str(of_stage.batch)]
    return [*args, *_context("--max-model-len", policy), *of_stage.flags]


def handover_arguments(stage: Stage, embeddings: Mapping[str, object], kv: Mapping[str, object]) -> list[str]:
    """Return the arguments by which vLLM's servers hand work on: embeddings to prefill, KV caches to decode.

    Args:
        stage: Of the server.
        embeddings: The ECConnector's configuration without its role.
        kv: The KV connector's.
    """
    flags = []
    if stage in _EC_ROLE:
        flags.append(f"--ec-transfer-config={json.dumps({**embeddings, 'ec_role': _EC_ROLE[stage]})}")
    if stage is not Stage.ENCODE:
        flags.append(f"--kv-transfer-config={json.dumps(kv)}")
    return flags


def sglang_arguments(policy: Policy, stage: Stage, port: int) -> list[str]:
    """Return the command of SGLang's server; the policy's own flags come last, and win."""
    of_stage = policy.stages[stage]
    args = ["python3", "-m", "sglang.launch_server", "--model-path", *_names(policy)]
    args += ["--port", str(port), "--tp", str(of_stage.tp), "--max-running-requests", str(of_stage.batch)]
    role = ["--encoder-only"] if stage is Stage.ENCODE else ["--disaggregation-mode", stage.value]
    return [*args, *role, *_context("--context-length", policy), *of_stage.flags]


def _names(policy: Policy) -> list[str]:
    """Return what a server loads, and the name under which clients ask for it."""
    return [policy.model.weights or policy.model.name, "--served-model-name", policy.model.name]


def _context(flag: str, policy: Policy) -> list[str]:
    return [flag, str(policy.model.max_context)] if policy.model.max_context else []
