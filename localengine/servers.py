"""vLLM's servers on this machine: what each is started with."""

import hashlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from localengine.environment import EngineMissing, vllm_python
from orchestrator.engine_arguments import handover_arguments, vllm_arguments
from orchestrator.policy import Policy
from stages.disk_cache import cached_directory
from stages.free_ports import free_port
from stages.types import Stage

TINY_VLM = "tiny-vlm"
"""`model.weights` of the model that is written here: Qwen2.5-VL's shape, 0.9 million random weights."""

_SERVER = ("-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1")
_ON_A_PROCESSOR = (
    "--dtype=float32",
    "--enforce-eager",
    # The model runs in the process that schedules: two processes would talk by polling, which takes a core.
    "--distributed-executor-backend=uni",
    "--kv-cache-memory-bytes=67108864",
)
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_TARGET_DEVICE": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """How one server is started, again and again at the same address.

    Attributes:
        url: Where it answers once it is up.
        environment: Added to that of whoever starts it.
    """

    url: str
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngines:
    """Makes command lines of servers for one policy.

    Attributes:
        python: That has vLLM.
        policy: Its `model.weights` is what the servers load.
        embeddings: Folder in which encode leaves embeddings for prefill; one a system.
    """

    python: Path
    policy: Policy
    embeddings: Path

    def stage(self, stage: Stage) -> ServerCommand:
        """Return a server of one stage. KV caches go from prefill to decode over NIXL."""
        folder = {"shared_storage_path": str(self.embeddings)}
        embeddings = {"ec_connector": "ECExampleConnector", "ec_connector_extra_config": folder}
        return self._server(stage, handover_arguments(self.policy, stage, embeddings, _NIXL))

    def whole(self) -> ServerCommand:
        """Return a server that does all three stages, with decode's flags, to compare with."""
        return self._server(Stage.DECODE, ())

    def _server(self, stage: Stage, connectors: Sequence[str]) -> ServerCommand:
        port = free_port()
        # The policy's flags come last: of a flag that is given twice, vLLM takes the second.
        arguments = [*_ON_A_PROCESSOR, *connectors, *vllm_arguments(self.policy, stage, port)]
        return ServerCommand(
            url=f"http://127.0.0.1:{port}",
            command=[str(self.python), *_SERVER, *arguments],
            environment={**_ENVIRONMENT, **self._offline(), "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())},
        )

    def _offline(self) -> dict[str, str]:
        """Return what keeps a model in a folder from being looked for elsewhere."""
        in_folder = Path(self.policy.model.weights or "").is_dir()
        return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if in_folder else {}


def local_engines(policy: Policy, embeddings: Path, say: Callable[[str], None]) -> LocalEngines:
    """Return what starts a policy's servers here; installs vLLM and writes the tiny model if need be.

    Raises:
        EngineMissing: vLLM cannot be had.
    """
    python = vllm_python(say)
    if policy.model.weights == TINY_VLM:
        policy = replace(policy, model=replace(policy.model, weights=str(_tiny_vlm(python))))
    return LocalEngines(python=python, policy=policy, embeddings=embeddings)


def _tiny_vlm(python: Path) -> Path:
    script = Path(__file__).with_name("tiny_vlm.py")
    mark = hashlib.sha256(script.read_bytes()).hexdigest()[:8]
    return cached_directory(f"{TINY_VLM}-{mark}", partial(_write_tiny_vlm, python, script))


def _write_tiny_vlm(python: Path, script: Path, folder: Path) -> None:
    done = subprocess.run([str(python), str(script), str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise EngineMissing(f"the model {TINY_VLM} was not written:\n{done.stderr[-2000:]}")
