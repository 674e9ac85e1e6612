"""`routers`: Tercet beside vllm-router and sglang-router, in front of the same emulated engines.

The engines take no time, so what is measured is the way to them and back. `bare` is a client that calls vLLM
engines by itself, `noop` Tercet with built-in engines that do nothing: its own path with no server behind.
Text alone: no peer has a way to encode servers.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import fronts
from bench.contender import Command, Contender
from bench.load import Window
from bench.processes import ROOT, Processes
from bench.report import Figure, Say, against, figure, percentile

RATE_PER_S = 20.0
CONCURRENCY = 32
LONG = 129
"""Tokens of a long answer; a short one has one, so that its time is that to the first token."""
_TOKENS = {"short": 1, "long": LONG}
_POLICIES = ROOT / "policies"


@dataclass(frozen=True)
class _Mode:
    """Which engines there are.

    Attributes:
        kind: Whose interface they have.
        roles: What each address of Tercet's is.
        policy: Tercet's, with what it lacks.
    """

    kind: str
    roles: Mapping[str, str]
    policy: Path
    split: str = ""


_APART = {"prefill": "prefill", "decode": "decode"}
_VLLM = _POLICIES / "vllm-tiny.yaml"
_MODES = {
    "pd": _Mode("vllm", _APART, _VLLM, "split: {encode_from: null}\n"),
    "sglang-pd": _Mode("sglang", _APART, _POLICIES / "examples" / "sglang-pd.yaml"),
    "whole": _Mode(
        "vllm", {"decode": "aggregated"}, _VLLM, "split: {encode_from: null, prefill_from: null}\n"
    ),
}


@dataclass
class _Entry:
    """One way to the engines.

    Attributes:
        drivers: Contenders by the length of their answers.
        ttft, full, streams: Windows of short answers at `RATE_PER_S` and at `CONCURRENCY`, and of long ones.
        rss: Bytes of the processes between client and engines, by round.
    """

    root: int
    drivers: Mapping[str, Contender]
    ttft: list[Window] = field(default_factory=list)
    full: list[Window] = field(default_factory=list)
    streams: list[Window] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)

    def p(self, fraction: float) -> list[float]:
        """Return a percentile of the time to the first token by round, in milliseconds."""
        return [1e3 * percentile(window.latencies_s, fraction) for window in self.ttft]

    def tokens_per_s(self) -> list[float]:
        """Return tokens streamed per second by round."""
        return [LONG * window.per_s for window in self.streams]


def run(say: Say, quick: bool) -> list[Figure]:
    """Compare in all modes: prefill and decode apart, vLLM and SGLang, and one engine for all."""
    return [each for mode in _MODES for each in _mode(mode, say, quick)]


def _mode(mode: str, say: Say, quick: bool) -> list[Figure]:
    rounds, window_s = (2, 3.0) if quick else (5, 6.0)
    with _started(mode, say) as entries:
        for entry in entries.values():
            for driver in entry.drivers.values():
                driver.run(Command(duration_s=1.0, concurrency=4))
        for number in range(rounds):
            for name, entry in entries.items():
                say(f"{mode}, round {number + 1}/{rounds}: {name}")
                paced = Command(duration_s=window_s, rate_per_s=RATE_PER_S, seed=number)
                most = Command(duration_s=window_s, concurrency=CONCURRENCY)
                entry.ttft.append(entry.drivers["short"].run(paced))
                entry.full.append(entry.drivers["short"].run(most))
                entry.streams.append(entry.drivers["long"].run(most))
                entry.rss.append(_rss_mb(entry.root))
        return _figures(mode, entries)


@contextmanager
def _started(mode: str, say: Say) -> Iterator[dict[str, _Entry]]:
    """Run engines, routers and drivers."""
    with ExitStack() as until:
        folder = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="tercet-bench-")))
        processes = until.enter_context(Processes(folder))
        say(f"{mode}: starting engines and what is in front of them")
        engines = _engines(mode, processes, folder)
        entries = {}
        if _MODES[mode].kind == "vllm":
            bare = {"BENCH_PREFILL": engines.get("prefill", ""), "BENCH_DECODE": engines["decode"]}
            entries["bare"] = _entry(processes, "bare", "bare", bare, 0)
        for name, start in _ROUTERS.items():
            if port := start(mode, processes, folder, engines, say):
                there = {"BENCH_PORT": str(port), "BENCH_MODEL": "noop" if name == "noop" else "tiny"}
                entries[name] = _entry(processes, name, "chat", there, processes.pid(name))
        yield entries


def _tokens_goal(name: str) -> str:
    return ">= 8000" if name == "tercet" else ""


def _entry(processes: Processes, name: str, kind: str, there: Mapping[str, str], root: int) -> _Entry:
    drivers = {
        length: Contender(processes, f"{name}-{length}", kind, {**there, "BENCH_TOKENS": str(tokens)})
        for length, tokens in _TOKENS.items()
    }
    return _Entry(root, drivers)


def _engines(mode: str, processes: Processes, folder: Path) -> dict[str, str]:
    """Start emulated engines; return their addresses by stage."""
    shared = ("--engine", _MODES[mode].kind, "--model", "tiny", "--ec-dir", str(folder / "ec"))
    found = {
        stage: fronts.engine(processes, f"engine-{stage}", role, *shared)
        for stage, role in _MODES[mode].roles.items()
    }
    fronts.wait_for(found.values())
    return found


def _tercet(mode: str, processes: Processes, folder: Path, engines: Mapping[str, str], say: Say) -> int:
    policy = folder / "policy.yaml"
    text = _MODES[mode].policy.read_text().replace("batch: 16", "batch: 256")
    policy.write_text(text.replace(", max_context: 1024", "") + _MODES[mode].split)
    addresses = ",".join(f"{stage}={url}" for stage, url in engines.items())
    return fronts.tercet(processes, "tercet", folder, "--policy", str(policy), "--engines", addresses)


def _noop(mode: str, processes: Processes, folder: Path, _: Mapping[str, str], say: Say) -> int:
    if mode != "pd":
        return 0  # built-in engines are always apart
    return fronts.tercet(processes, "noop", folder, "--policy", str(ROOT / "policies" / "noop.yaml"))


def _vllm_router(mode: str, processes: Processes, _: Path, engines: Mapping[str, str], say: Say) -> int:
    workers = ["--worker-urls", engines["decode"]]
    if mode == "sglang-pd":
        return 0  # vLLM's prefill and decode meet by other fields
    if mode == "pd":
        pair = ["--prefill", engines["prefill"], "--decode", engines["decode"]]
        workers = ["--vllm-pd-disaggregation", *pair, "--kv-connector", "nixl"]
    return _router("vllm-router", workers, processes, say)


def _sglang_router(mode: str, processes: Processes, _: Path, engines: Mapping[str, str], say: Say) -> int:
    workers = ["--worker-urls", engines["decode"]]
    if mode == "pd":
        return 0  # SGLang's prefill and decode meet by other fields
    if mode == "sglang-pd":
        prefill = (engines["prefill"], str(fronts.bootstrap_port(engines["prefill"])))
        workers = ["--pd-disaggregation", "--prefill", *prefill, "--decode", engines["decode"]]
    return _router("sglang-router", workers, processes, say)


_Start = Callable[[str, Processes, Path, Mapping[str, str], Say], int]
_ROUTERS: Mapping[str, _Start] = {
    "tercet": _tercet,
    "noop": _noop,
    "vllm-router": _vllm_router,
    "sglang-router": _sglang_router,
}
"""Start each and return its port, 0 where it is not to be had or cannot do the mode."""


def _router(name: str, workers: list[str], processes: Processes, say: Say) -> int:
    return fronts.router(processes, name, name, "tiny", workers) if fronts.installed(name, say) else 0


def _rss_mb(root: int) -> float:
    if not root:
        return 0.0
    return sum(process.memory_info().rss for process in fronts.family(root)) / 1e6


def _figures(mode: str, entries: Mapping[str, _Entry]) -> list[Figure]:
    found: list[Figure] = []
    for name, entry in entries.items():
        at = f"routers.{mode}.{name}"
        found += [
            figure(f"{at}.ttft.p50", entry.p(0.5), "ms"),
            figure(f"{at}.ttft.p99", entry.p(0.99), "ms"),
            figure(f"{at}.saturation", [window.per_s for window in entry.full], "req/s"),
            figure(f"{at}.tokens", entry.tokens_per_s(), "tokens/s", _tokens_goal(name)),
        ]
        if name != "bare":
            found.append(figure(f"{at}.rss", entry.rss, "MB"))
        if name != "bare" and "bare" in entries:
            added = [ours - floor for ours, floor in zip(entry.p(0.5), entries["bare"].p(0.5), strict=True)]
            found.append(figure(f"{at}.added.p50", added, "ms"))
    return found + _beyond_noop(entries) + _ratios(mode, entries)


def _beyond_noop(entries: Mapping[str, _Entry]) -> list[Figure]:
    """Return what Tercet adds to the engines, less what its path takes with nothing behind."""
    if "noop" not in entries:
        return []
    rounds = zip(*(entries[name].p(0.5) for name in ("tercet", "bare", "noop")), strict=True)
    beyond = [ours - floor - path for ours, floor, path in rounds]
    return [figure("routers.pd.tercet.added.p50-noop", beyond, "ms", "<= 2")]


def _ratios(mode: str, entries: Mapping[str, _Entry]) -> list[Figure]:
    ours = entries["tercet"]
    found: list[Figure] = []
    for peer, other in entries.items():
        if peer in ("tercet", "noop"):
            continue
        at = f"routers.{mode}.tercet"
        full = [window.per_s for window in ours.full], [window.per_s for window in other.full]
        found += [
            against(f"{at}.ttft.p50/{peer}", ours.p(0.5), peer, other.p(0.5), "ms"),
            against(f"{at}.saturation/{peer}", full[0], peer, full[1], "req/s"),
            against(f"{at}.tokens/{peer}", ours.tokens_per_s(), peer, other.tokens_per_s(), "tokens/s"),
        ]
    return found
