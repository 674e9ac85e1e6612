"""`predict`: the simulator beside live loads that its profile was not fitted to."""

import asyncio
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.predict_compare import Compared, Seen, compare
from bench.predict_report import record, table
from bench.processes import ROOT
from bench.report import Figure, Say
from cli.pressure.battery import SATURATING
from cli.pressure.measure import Plan, measure, profile_of
from cli.pressure.open_load import open_load
from cli.pressure.requests import Mix, bodies
from cli.pressure.system import System, started
from orchestrator.control_policy import Hardware
from orchestrator.core.profile import ModelProfile
from orchestrator.policy import Policy, load_policy
from orchestrator.profiles import profile_path, read_profile
from orchestrator.profiles.format import ImageFacts
from orchestrator.profiles.pressure import Round, Row
from orchestrator.simulator.on_one_host import on_one_host, workload_of
from orchestrator.simulator.run import simulate
from orchestrator.simulator.workload import Workload
from stages.types import Stage

POLICY = ROOT / "policies" / "tiny.yaml"
REPLICAS = {Stage.ENCODE: 2, Stage.PREFILL: 1, Stage.DECODE: 2}
LOADS = (0.3, 0.6, 0.85)
"""Fractions of the saturated rate of the mix."""
RESULTS = ROOT / "docs" / "results"

_PERCENTS = (50, 90, 99)
_SEEDS = 5
_MIX = Mix()


@dataclass(slots=True, kw_only=True)
class _Runs:
    """Live runs, one of each load after each round of pressure tests: under the same conditions.

    Attributes:
        rate_per_s: Saturated rate of the mix, of the first round.
        seen: By load, in order.
    """

    system: System
    duration_s: float
    say: Say
    rate_per_s: float = 0.0
    seen: dict[float, list[tuple[Seen, Workload]]] = field(
        default_factory=lambda: {load: [] for load in LOADS}
    )

    def after(self, tests: Round) -> None:
        """Run each load once."""
        self.rate_per_s = self.rate_per_s or tests.mixed[-1].rate_per_s
        for load, runs in self.seen.items():
            self.say(f"{load:.0%} of {self.rate_per_s:.0f} requests/s, run {len(runs) + 1}")
            runs.append(_live(self.system, load * self.rate_per_s, self.duration_s, seed=len(runs)))


def run(say: Say, quick: bool) -> list[Figure]:
    """Measure a profile, running three loads between its rounds; then simulate the same requests."""
    plan = Plan(rounds=1 if quick else 5, starts=1 if quick else 3)
    policy, hardware = load_policy(POLICY), Hardware.load()
    with started(POLICY, REPLICAS) as system:
        runs = _Runs(system=system, duration_s=8.0 if quick else 20.0, say=say)
        keys = measure(system, policy, REPLICAS, plan, _MIX, say, runs.after)
    profile = profile_of(keys, hardware)
    say("simulating the same requests")
    rows = []
    for load, seen in runs.seen.items():
        pairs = [(live, _simulated(policy, profile, work, hardware)) for live, work in seen]
        rows += compare(load, pairs)
    if not quick:
        record(RESULTS, rows, keys, _facts(runs, plan))
    print(table(rows))
    return [_figure(row) for row in rows]


def _facts(runs: _Runs, plan: Plan) -> dict[str, float]:
    return {
        "rate": runs.rate_per_s,
        "concurrency": SATURATING,
        "repeats": plan.rounds,
        "duration": runs.duration_s,
        "seeds": _SEEDS,
    }


def _live(system: System, rate_per_s: float, duration_s: float, seed: int) -> tuple[Seen, Workload]:
    """Run a load; return what was seen, and its requests as they turned out."""
    # The same arrivals and shapes at every repeat, with other images and words, so that no cache knows them.
    rng = random.Random(rate_per_s)
    shapes = [_MIX.draw(rng) for _ in range(int(rate_per_s * duration_s))]
    arrival_s = np.cumsum([rng.expovariate(rate_per_s) for _ in shapes]).tolist()
    requests = bodies("tiny", shapes, 1_000 + seed, _image().px)
    before = system.hops()
    answers = asyncio.run(open_load(system.port, requests, arrival_s))
    hops = {name: count - before[name] for name, count in system.hops().items()}
    rows = [Row(s.images, a.prompt_tokens, a.output_tokens) for s, a in zip(shapes, answers, strict=True)]
    tpot_s = [a.tpot_s for a in answers if a.output_tokens > 1]
    span_s = max(a.last_s for a in answers) - min(a.sent_s for a in answers)
    tokens = sum(row.output_tokens for row in rows)
    figures = _figures([a.ttft_s for a in answers], tpot_s, tokens / span_s)
    return Seen(figures=figures, shares=_shares(hops)), workload_of(
        "live", rows, arrival_s, image_tokens=_image().tokens
    )


def _simulated(policy: Policy, profile: ModelProfile, work: Workload, hardware: Hardware) -> Seen:
    """Return the medians over several seeds."""
    seen = [_simulate_once(policy, profile, work, hardware, seed) for seed in range(_SEEDS)]
    return Seen(
        figures={name: statistics.median(s.figures[name] for s in seen) for name in seen[0].figures},
        shares={
            stage: [statistics.median(each) for each in zip(*[s.shares[stage] for s in seen], strict=True)]
            for stage in seen[0].shares
        },
    )


def _simulate_once(
    policy: Policy, profile: ModelProfile, work: Workload, hardware: Hardware, seed: int
) -> Seen:
    ran = simulate(on_one_host(policy, profile, REPLICAS, work, hardware, seed=seed))
    outcomes = ran.only.outcomes
    ttft_s, tpot_s = outcomes.ttft_s, outcomes.tpot_s
    steps = np.maximum(work.output_tokens - 1, 0)
    span_s = float((work.arrival_s + ttft_s + tpot_s * steps).max() - work.arrival_s[0])
    several = work.output_tokens > 1
    figures = _figures(ttft_s.tolist(), tpot_s[several].tolist(), float(work.output_tokens.sum()) / span_s)
    hops = {replica: count for (_, replica), count in ran.only.hops.items()}
    return Seen(figures=figures, shares=_shares({name.removeprefix("tiny-"): n for name, n in hops.items()}))


def _figures(ttft_s: Sequence[float], tpot_s: Sequence[float], tokens_per_s: float) -> dict[str, float]:
    ttft, tpot = np.percentile(ttft_s, _PERCENTS), np.percentile(tpot_s, _PERCENTS)
    return {
        **{f"ttft_p{percent}": float(value) for percent, value in zip(_PERCENTS, ttft, strict=True)},
        **{f"tpot_p{percent}": float(value) for percent, value in zip(_PERCENTS, tpot, strict=True)},
        "throughput": tokens_per_s,
    }


def _shares(hops: Mapping[str, int]) -> dict[str, list[float]]:
    counts: dict[str, list[int]] = {str(stage): [] for stage in Stage}
    for name in sorted(hops):
        counts[name.rpartition("-")[0]].append(hops[name])
    return {stage: [count / max(1, sum(each)) for count in each] for stage, each in counts.items()}


def _image() -> ImageFacts:
    return read_profile(profile_path("tiny")).image


def _figure(row: Compared) -> Figure:
    return Figure(
        name=f"predict.{row.load:.0%}.{row.figure}",
        value=row.simulated,
        unit="tok/s" if row.figure == "throughput" else "" if row.is_share else "s",
        peer="live",
        ratio=row.ratio,
        spread=row.spread,
        goal=f"±{row.goal:.0%}",
        met=row.met,
    )
