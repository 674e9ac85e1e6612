"""`decide`: how long one decision takes for many services on a large fleet."""

import gc
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.report import Figure, Say, figure
from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.core.decide import Decision, ServiceState, decide
from orchestrator.core.observed import Node, ReplicaState, ServiceSample, Snapshot, StageSample
from orchestrator.core.placement import apply
from orchestrator.core.planned import ControlPolicy
from orchestrator.simulator.fleet_spec import parse_fleet
from stages.types import Stage

POLICY = Path(__file__).parents[1] / "policies/internvl-26b.yaml"
SIZES = ((25, 625), (50, 1_250), (100, 2_500), (200, 5_000))
"""Services, and nodes of eight accelerators."""
NODES_ALONE = tuple((50, nodes) for nodes in (1_250, 2_500, 5_000))
SERVICES_ALONE = tuple((services, 5_000) for services in (50, 100, 200))
_TICK_S = 30.0
_IMAGES, _TEXT_TOKENS, _OUTPUT_TOKENS = 1.5, 400.0, 150.0
"""Of a request."""


def run(say: Say, quick: bool) -> list[Figure]:
    """Decide at several sizes: as everything starts, and under loads that go on changing.

    Times are processor time: a decision is one thread that waits for nothing.
    """
    start_ms, steady_ms = {}, {}
    for services, nodes in sorted({*SIZES, *NODES_ALONE, *SERVICES_ALONE}):
        say(f"{services} services on {nodes:,} nodes")
        took_ms = measure(services, nodes, ticks=4 if quick else 12)
        start_ms[services, nodes], steady_ms[services, nodes] = [max(took_ms[:3])], took_ms[3:]
    return [
        *[
            _at(f"decide.{services}x{nodes}.start", took, services)
            for (services, nodes), took in start_ms.items()
        ],
        *[_at(f"decide.{services}x{nodes}", took, services) for (services, nodes), took in steady_ms.items()],
        *_growth("decide.growth.start", start_ms),
        *_growth("decide.growth", steady_ms),
    ]


def _at(name: str, took_ms: Sequence[float], services: int) -> Figure:
    return figure(name, took_ms, "ms", "<= 1000" if services == SIZES[-1][0] else "")


def _growth(name: str, took_ms: Mapping[tuple[int, int], Sequence[float]]) -> list[Figure]:
    """Return the exponents of time over both, over nodes alone and over services alone.

    The goal is that of n log n between the same ends, and a tenth for the noise of single runs.
    """
    found = []
    for suffix, sizes, by in (("", SIZES, 1), (".nodes", NODES_ALONE, 1), (".services", SERVICES_ALONE, 0)):
        points = {size[by]: statistics.median(took_ms[size]) for size in sizes}
        goal = f"<= {n_log_n(min(points), max(points)) + 0.1:.2f}"
        found.append(figure(f"{name}{suffix}", [exponent(points)], "", goal))
    return found


def exponent(points: Mapping[int, float]) -> float:
    """Return the slope of log(value) over log(n), by least squares: 1 is linear."""
    return statistics.linear_regression(
        [math.log(n) for n in points], [math.log(value) for value in points.values()]
    ).slope


def n_log_n(low: int, high: int) -> float:
    """Return the exponent that n log n has between two sizes."""
    return 1.0 + math.log(math.log(high) / math.log(low)) / math.log(high / low)


def measure(services: int, nodes: int, ticks: int) -> list[float]:
    """Return the milliseconds of each decision: three while the services start, then `ticks` more."""
    control = load_control_policy(POLICY, Hardware.load())
    policies = {f"s{i:03d}": replace(control, service=f"s{i:03d}") for i in range(services)}
    fleet = _fleet(nodes, control)
    snapshot = Snapshot(services={}, replicas=(), nodes=fleet)
    state: dict[str, ServiceState] = {}
    took_ms = []
    for tick in range(3 + ticks):
        now_s = tick * _TICK_S
        samples = {name: _sample(control, i, now_s) for i, name in enumerate(policies)}
        snapshot = replace(snapshot, services=samples)
        decision, seconds = _timed(snapshot, policies, state, now_s)
        took_ms.append(1e3 * seconds)
        state = dict(decision.state)
        snapshot = _carried_out(apply(decision.changes, snapshot))
    return took_ms


def _timed(
    snapshot: Snapshot, policies: dict[str, ControlPolicy], state: dict[str, ServiceState], now_s: float
) -> tuple[Decision, float]:
    gc.collect()
    began_s = time.process_time()
    decision = decide(snapshot, policies, state, now_s)
    return decision, time.process_time() - began_s


def _carried_out(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot when what drained is gone and what was given a node is ready."""
    replicas = [
        replace(r, state=ReplicaState.READY) if r.node_id else r
        for r in snapshot.replicas
        if r.state is not ReplicaState.DRAINING
    ]
    return replace(snapshot, replicas=tuple(replicas))


def _fleet(nodes: int, control: ControlPolicy) -> tuple[Node, ...]:
    """Return a quarter of the nodes with l40s, the others with h100."""
    return parse_fleet(f"l40s={nodes // 4}x8,h100={nodes - nodes // 4}x8", control.levels)


def _sample(control: ControlPolicy, number: int, now_s: float) -> ServiceSample:
    """Return the counts of a service whose load differs from its neighbours' and grows by the minute."""
    requests = (2.0 + number % 7 * 3.0) * now_s * (1.0 + now_s / 1_000.0)
    units, jobs = _work(control, requests)
    return ServiceSample(
        at_s=now_s,
        requests=int(requests),
        text_tokens=_TEXT_TOKENS * requests,
        image_tokens=units[Stage.ENCODE],
        prompt_tokens=units[Stage.PREFILL],
        finished=int(requests),
        output_tokens=units[Stage.DECODE],
        judged=int(requests),
        attained=int(requests),
        ttft_ratio=0.5,
        tpot_ratio=0.5,
        stages={
            stage: StageSample(
                offered_units=units[stage],
                offered_jobs=jobs[stage],
                done_units=units[stage],
                started_jobs=jobs[stage],
            )
            for stage in Stage
        },
    )


def _work(control: ControlPolicy, requests: float) -> tuple[dict[Stage, float], dict[Stage, int]]:
    images = _IMAGES * control.profile.image_tokens
    each = {
        Stage.ENCODE: images,
        Stage.PREFILL: _TEXT_TOKENS + control.kappa * images,
        Stage.DECODE: _OUTPUT_TOKENS,
    }
    jobs = {Stage.ENCODE: _IMAGES, Stage.PREFILL: 1.0, Stage.DECODE: 1.0}
    return {s: units * requests for s, units in each.items()}, {s: int(n * requests) for s, n in jobs.items()}
