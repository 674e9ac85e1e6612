"""What stands in front of engine servers: Tercet, and the routers of others."""

import importlib.util
import json
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from bench.processes import Processes, wait_until
from bench.report import Say
from stages.free_ports import free_port

HERE = "http://127.0.0.1"

_MODULES = {"vllm-router": "vllm_router.launch_router", "sglang-router": "sglang_router.launch_router"}


def engine(processes: Processes, name: str, role: str, *options: str) -> str:
    """Start an emulated engine; return its address."""
    port = free_port()
    processes.python(name, "cli", "emulate", "--stage", role, "--port", str(port), *options)
    return f"{HERE}:{port}"


def wait_for(engines: Iterable[str]) -> None:
    """Wait until engines answer."""
    for url in engines:
        wait_until(f"{url} answers", partial(answers, f"{url}/health"))


def bootstrap_port(prefill: str) -> int:
    """Return the port at which SGLang servers find one that prefills."""
    with urllib.request.urlopen(f"{prefill}/server_info", timeout=5) as answer:
        return int(json.load(answer)["disaggregation_bootstrap_port"])


def tercet(processes: Processes, name: str, folder: Path, *options: str) -> int:
    """Start `tercet up`; return its port when it is ready."""
    port = free_port()
    here = ("--port", str(port), "--state", str(folder / name), "--metrics-port", "0")
    processes.python(name, "cli", "up", *options, *here)
    wait_until(f"{name} is ready", lambda: processes.pid(name) and answers(f"{HERE}:{port}/ready"))
    return port


def installed(router: str, say: Say) -> bool:
    """Return whether a router of others is there; say so if not."""
    if importlib.util.find_spec(_MODULES[router].partition(".")[0]):
        return True
    say(f"{router} is not installed (the extra `bench`): its figures are left out")
    return False


def router(processes: Processes, name: str, kind: str, model: str, options: Sequence[str]) -> int:
    """Start a router of others; return its port when requests get through."""
    port, metrics = free_port(), free_port()
    here = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics)]
    processes.start(name, [sys.executable, "-m", _MODULES[kind], *here, *options])
    wait_until(f"{name} is ready", lambda: processes.pid(name) and _serves(port, model))
    return port


def answers(url: str) -> bool:
    """Return whether a GET is answered by 200."""
    with suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    return False


def family(root: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    return [psutil.Process(root), *psutil.Process(root).children(recursive=True)]


def cpu_s(root: int) -> float:
    """Return the processor seconds that a process and all below it have used, user and system."""
    return sum(sum(process.cpu_times()[:2]) for process in family(root))


def _serves(port: int, model: str) -> bool:
    """Whether a request gets through."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"{HERE}:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with suppress(OSError):
        return bool(urllib.request.urlopen(request, timeout=5).status == 200)
    return False
