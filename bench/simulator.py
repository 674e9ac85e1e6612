"""`simulator`: how many requests a second the simulator gets through, and in how much memory."""

import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.report import Figure, Say, figure
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.workload import Workload

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "policies/examples/internvl-26b.yaml"
TRACE = ROOT / "data/traces/azure_lmm_window_2024-10-16.csv"
FLEET = "l40s=4x8,h100=12x8"
"""128 accelerators in racks of 32."""
_REQUESTS = 1_000_000
_QUICK = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one simulation took.

    Attributes:
        wall_s: With the first replicas' counts, without start-up and reading the trace.
        peak_bytes: Resident memory of its process at most.
    """

    wall_s: float
    events: int
    peak_bytes: int


def run(say: Say, quick: bool) -> list[Figure]:
    """Time the shipped window from the command line, then a long Poisson workload like it."""
    rounds, requests = (2, _QUICK) if quick else (5, _REQUESTS)
    say(f"the window of 2,000 requests from the command line, {rounds} times")
    window_s = [_command_s() for _ in range(rounds)]
    say(f"{requests:,} requests on {FLEET}: Poisson arrivals at the window's rate, its requests drawn anew")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        cost = process.submit(measure, requests).result()
    goals = not quick
    return [
        figure("simulator.window", window_s, "s", "<= 2"),
        figure("simulator.long", [cost.wall_s], "s", "<= 300" if goals else ""),
        figure("simulator.long.requests", [requests / cost.wall_s], "/s"),
        figure("simulator.long.request", [1e6 * cost.wall_s / requests], "µs"),
        figure("simulator.long.events", [cost.events / cost.wall_s], "/s"),
        figure("simulator.long.memory", [cost.peak_bytes / 1e6], "MB", "<= 1000"),
    ]


def measure(requests: int) -> Cost:
    """Simulate so many requests under the policy file's own scaling."""
    subject = load_subject(POLICY, TRACE, fleet=FLEET)
    subject = replace(subject, workload=poisson(subject.workload, requests, np.random.default_rng(0)))
    began_s = time.perf_counter()
    ran = simulate(subject.scenario())
    wall_s = time.perf_counter() - began_s
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
    return Cost(wall_s=wall_s, events=ran.events, peak_bytes=peak_bytes)


def poisson(like: Workload, requests: int, rng: np.random.Generator) -> Workload:
    """Return Poisson arrivals at a workload's mean rate, each a request drawn from it."""
    drawn = rng.integers(len(like), size=requests)
    arrival_s = np.cumsum(rng.exponential(1.0 / like.rate_per_s, requests))
    return Workload(
        name=f"{like.name}-poisson",
        label=f"generated: Poisson arrivals, requests drawn from {like.name} ({like.label})",
        arrival_s=arrival_s,
        images=like.images[drawn],
        context_tokens=like.context_tokens[drawn],
        output_tokens=like.output_tokens[drawn],
        span_s=float(arrival_s[-1]),
    )


def _command_s() -> float:
    command = [sys.executable, "-m", "cli", "simulate", "--policy", str(POLICY), "--trace", str(TRACE)]
    began_s = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s
