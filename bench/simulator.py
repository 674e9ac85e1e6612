"""`simulator`: how many requests a second it gets through, beside vidur, and in how much memory."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench import vidur_peer
from bench.report import Figure, Say, against, figure
from orchestrator.core.capacity import kv_capacity_tokens
from orchestrator.core.changes import Changes, Create
from orchestrator.core.profile import HardwareClass
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.run import Scenario, simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.variant import IMAGES_AT_MOST
from stages.types import Stage

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "policies/internvl-26b.yaml"
TRACE = ROOT / "data/traces/azure_lmm_window_2024-10-16.csv"
FLEET = "l40s=4x8,h100=12x8"
"""128 accelerators in racks of 32."""
_REQUESTS = 1_000_000
_QUICK = 50_000
TEXT_TRACE = ROOT / "data/traces/azure_llm_2023_conv.csv.gz"
_TEXT_REQUESTS, _TEXT_ROUNDS = 1_000, 3
_TEXT_REPLICAS, _TEXT_HARDWARE = 4, "a100"
"""Four accelerators each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one simulation took.

    Attributes:
        wall_s: With the first replicas' counts, without start-up and reading the trace.
        peak_bytes: Resident memory of its process at most.
    """

    wall_s: float
    processor_s: float
    events: int
    peak_bytes: int


def run(say: Say, quick: bool) -> list[Figure]:
    """Time the shipped window from the command line, a week, and text requests beside vidur."""
    rounds, requests = (2, _QUICK) if quick else (5, _REQUESTS)
    say(f"the window of 2,000 requests from the command line, {rounds} times")
    _, *window_s = [_command_s() for _ in range(1 + rounds)]
    say(f"{requests:,} requests of the week's twin on {FLEET}, images clipped and not")
    clipped, unclipped = [_alone(partial(measure, requests), at_most) for at_most in (IMAGES_AT_MOST, None)]
    return [
        figure("simulator.window", window_s, "s", "<= 2"),
        *_cost("simulator.week", clipped, requests, goals=not quick),
        *_cost("simulator.week.unclipped", unclipped, requests, goals=False),
        *_beside_vidur(say, quick),
    ]


def _cost(name: str, cost: Cost, requests: int, *, goals: bool) -> list[Figure]:
    return [
        figure(name, [cost.wall_s], "s", "<= 300" if goals else ""),
        figure(f"{name}.processor", [cost.processor_s], "s"),
        figure(f"{name}.requests", [requests / cost.wall_s], "/s"),
        figure(f"{name}.events", [cost.events / cost.wall_s], "/s"),
        figure(f"{name}.memory", [cost.peak_bytes / 1e6], "MB", "<= 1000" if goals else ""),
    ]


def measure(requests: int, images_at_most: int | None) -> Cost:
    """Simulate the first requests of the week's twin under the policy file's own scaling."""
    work, _ = load_workload("twin-week:", seed=0)
    if images_at_most is not None:
        work = work.clipped(images_at_most)
    if requests < len(work):
        work = work.slice(0.0, float(work.arrival_s[requests]))
    subject = replace(load_subject(POLICY, TRACE, fleet=FLEET), workload=work)
    began_s, began_processor_s = time.perf_counter(), time.process_time()
    ran = simulate(subject.scenario())
    wall_s, processor_s = time.perf_counter() - began_s, time.process_time() - began_processor_s
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
    return Cost(wall_s=wall_s, processor_s=processor_s, events=ran.events, peak_bytes=peak_bytes)


def _command_s() -> float:
    """Time the command as it is where it is installed: with bytecode, which the first of them writes."""
    command = [sys.executable, "-m", "cli", "simulate", "--policy", str(POLICY), "--trace", str(TRACE)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began_s = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def _beside_vidur(say: Say, quick: bool) -> list[Figure]:
    """Simulate the same text requests with ours and with vidur, in turn, each in a process of its own."""
    if find_spec("vidur") is None:
        say("vidur has no package for this platform; left out")
        return []
    requests = _TEXT_REQUESTS // 4 if quick else _TEXT_REQUESTS
    say(f"{requests:,} text requests on {_TEXT_REPLICAS} replicas, {_TEXT_ROUNDS} times, and with vidur")
    pairs = [(_alone(text_ours, requests), _alone(text_vidur, requests)) for _ in range(_TEXT_ROUNDS)]
    ours, theirs = zip(*pairs, strict=True)

    def beside(name: str, unit: str, value: Callable[[vidur_peer.Simulated], float]) -> Figure:
        values = list(map(value, ours))
        return against(f"simulator.text.{name}", values, "vidur", list(map(value, theirs)), unit)

    return [
        beside("requests", "/s", lambda found: requests / found.wall_s),
        beside("events", "/s", lambda found: found.events / found.wall_s),
        beside("events_a_request", "", lambda found: found.events / requests),
        beside("latency", "s", lambda found: found.latency_s),
    ]


def _alone(measured: Callable[[_Given], _Found], given: _Given) -> _Found:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measured, given).result()


def text_ours(requests: int) -> vidur_peer.Simulated:
    """Simulate text requests on replicas that prefill and decode, each request sent to the next in turn."""
    scenario = _text_scenario(requests)
    began_s = time.perf_counter()
    ran = simulate(scenario)
    wall_s = time.perf_counter() - began_s
    tokens, outcomes = scenario.only.workload.output_tokens, ran.only.outcomes
    latency_s = outcomes.ttft_s + outcomes.tpot_s * np.maximum(tokens - 1, 1)
    return vidur_peer.Simulated(
        wall_s=wall_s, events=ran.events + requests, latency_s=float(np.mean(latency_s, dtype=np.float64))
    )


def text_vidur(requests: int) -> vidur_peer.Simulated:
    """Simulate the same requests on as many replicas with vidur."""
    scenario = _text_scenario(requests)
    control = scenario.only.control
    where = HardwareClass(_TEXT_HARDWARE, control.stages[Stage.DECODE].tp)
    return vidur_peer.measure(
        vidur_peer.Cluster(
            replicas=_TEXT_REPLICAS,
            prefill=control.profile.prefill[where],
            decode=control.profile.decode[where],
            chunk_tokens=control.profile.chunk_tokens,
            sequences=control.stages[Stage.DECODE].slots,
            kv_tokens=kv_capacity_tokens(control.profile, Stage.DECODE, where, control.accelerators),
        ),
        scenario.only.workload,
    )


def _text_scenario(requests: int) -> Scenario:
    subject = load_subject(POLICY, TEXT_TRACE)
    work = subject.workload
    subject = replace(subject, workload=work.slice(0.0, float(work.arrival_s[requests])))
    tenant = subject.tenant()
    stages = {s: replace(b, hardware=(_TEXT_HARDWARE,), tp=4) for s, b in tenant.control.stages.items()}
    tenant = replace(
        tenant,
        control=replace(tenant.control, stages=stages),
        links=tenant.links[-1:],
        system="monolith-round-robin",
    )
    create = Create(service=tenant.name, stage=Stage.ENCODE, hardware=_TEXT_HARDWARE, tp=4, node_id="node")
    return Scenario(
        tenants=(tenant,), nodes=(), first=Changes(create=(create,) * _TEXT_REPLICAS), scaled=False
    )
