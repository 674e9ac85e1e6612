"""`hops`: three hops with engines that do nothing, beside bare Celery and Ray Serve."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from bench import celery_peer
from bench.contender import Command, Contender
from bench.load import Window
from bench.processes import ROOT, CpuMeter, busy_cores
from bench.report import Figure, Say, against, figure, percentile
from bench.stack import Stack, stack
from stages.types import Stage

RATE_PER_S = 100.0
CONCURRENCY = 64
_HOPS = 3
_PAIRS = (
    ("tercet", "celery-chain", "<= 1.5", ""),
    ("tercet", "celery-driver", "<= 1.5", ""),
    ("tercet", "ray", "<= 0.5", ">= 1.3"),
    ("tercet-http", "celery-chain", "", ""),
    ("tercet-http", "ray", "", ""),
)
"""Which contender is compared with which peer, and the goals for p50 and saturation."""
_POLICY = ROOT / "policies" / "noop.yaml"


@dataclass
class _Entry:
    """One contender and the processes that work for it.

    Attributes:
        paced, full: Its windows at `RATE_PER_S` and at saturation.
        cpu_us: Processor time per hop, by part, of each window at the fixed rate.
    """

    contender: Contender
    parts: Mapping[str, int]
    paced: list[Window] = field(default_factory=list)
    full: list[Window] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)

    def p(self, fraction: float) -> list[float]:
        """Return a percentile of each paced window, in milliseconds."""
        return [1e3 * percentile(window.latencies_s, fraction) for window in self.paced]

    def cpu(self) -> list[float]:
        """Return processor microseconds per hop of all parts together."""
        return [sum(parts.values()) for parts in self.cpu_us]

    def saturation(self) -> list[float]:
        """Return requests/s of each closed-loop window."""
        return [window.per_s for window in self.full]


def run(say: Say, quick: bool) -> list[Figure]:
    """Run all contenders in turn, several times."""
    with stack("noop") as system:
        return _run(system, say, quick)


def _run(system: Stack, say: Say, quick: bool) -> list[Figure]:
    entries = _start(system, say)
    rounds, paced_s, full_s = (2, 3.0, 2.0) if quick else (5, 6.0, 4.0)
    for entry in entries.values():
        entry.contender.run(Command(duration_s=1.5, concurrency=8))
    idle_cores: list[float] = []
    for number in range(rounds):
        # What other programs take from this machine meanwhile, and the contenders at rest.
        idle_cores.append(busy_cores(1.0))
        for name, entry in entries.items():
            say(f"round {number + 1}/{rounds}: {name}")
            meter = CpuMeter(entry.parts)
            window = entry.contender.run(Command(duration_s=paced_s, rate_per_s=RATE_PER_S, seed=number))
            per_hop = 1e6 / (len(window.latencies_s) * _HOPS)
            entry.cpu_us.append({part: s * per_hop for part, s in meter.read_s().items()})
            entry.paced.append(window)
            entry.full.append(entry.contender.run(Command(duration_s=full_s, concurrency=CONCURRENCY)))
    return [figure("hops.busy_at_rest", idle_cores, "cores"), *_figures(entries)]


def _start(system: Stack, say: Say) -> dict[str, _Entry]:
    processes = system.processes
    ours = processes.pids()
    environment = {
        "BENCH_REDIS": system.redis_url,
        "BENCH_BLOBS": system.blobs.directory,
        "BENCH_POLICY": str(_POLICY),
        "BENCH_PORT": str(system.port),
    }
    celery_workers = celery_peer.start_workers(processes, system.redis_url)
    say("starting contenders")
    entries: dict[str, _Entry] = {}

    def add(name: str, kind: str, **extra: str) -> Contender:
        contender = Contender(processes, name, kind, environment | extra)
        entries[name] = _Entry(contender, {})
        return contender

    stages = {"redis": ours["redis"], **{str(stage): ours[f"{stage}-0"] for stage in Stage}}
    direct = add("tercet", "direct")
    entries["tercet"].parts = {"gateway": direct.pid, **stages}
    http = add("tercet-http", "http")
    entries["tercet-http"].parts = {"client": http.pid, "gateway": ours["gateway"], **stages}
    workers = {name.removeprefix("celery-"): processes.pid(name) for name in celery_workers}
    for kind in ("chain", "driver"):
        peer = add(f"celery-{kind}", "celery", BENCH_CELERY=kind)
        entries[f"celery-{kind}"].parts = {"driver": peer.pid, "redis": ours["redis"], **workers}
    if importlib.util.find_spec("ray"):
        ray = add("ray", "ray", RAY_TMPDIR=str(system.folder))  # its logs and sockets go with the folder
        below = psutil.Process(ray.pid).children(recursive=True)
        entries["ray"].parts = {"driver": ray.pid, **{f"{p.name()}-{p.pid}": p.pid for p in below}}
    else:
        say("Ray is not installed (the extra `bench`): its figures are left out")
    return entries


def _figures(entries: Mapping[str, _Entry]) -> list[Figure]:
    found: list[Figure] = []
    for name, entry in entries.items():
        found += [
            figure(f"hops.{name}.p50", entry.p(0.5), "ms"),
            figure(f"hops.{name}.p99", entry.p(0.99), "ms"),
        ]
        found.append(figure(f"hops.{name}.saturation", entry.saturation(), "req/s"))
        found.append(figure(f"hops.{name}.cpu", entry.cpu(), "µs/hop"))
        if name != "ray":
            found += [
                figure(f"hops.{name}.cpu.{part}", [parts[part] for parts in entry.cpu_us], "µs/hop")
                for part in entry.parts
            ]
    return found + _ratios(entries)


def _ratios(entries: Mapping[str, _Entry]) -> list[Figure]:
    found: list[Figure] = []
    for name, peer, p50_goal, full_goal in _PAIRS:
        if peer not in entries:
            continue
        ours, other = entries[name], entries[peer]
        full, full_other = ours.saturation(), other.saturation()
        found += [
            against(f"hops.{name}.p50/{peer}", ours.p(0.5), peer, other.p(0.5), "ms", p50_goal),
            against(f"hops.{name}.saturation/{peer}", full, peer, full_other, "req/s", full_goal),
            against(f"hops.{name}.cpu/{peer}", ours.cpu(), peer, other.cpu(), "µs/hop"),
        ]
    return found
