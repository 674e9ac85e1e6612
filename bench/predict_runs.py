"""One load as a system serves it and as the simulator does: the same requests at the same times."""

import asyncio
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.predict_compare import Compared, Seen
from bench.processes import ROOT
from bench.report import Figure
from cli.pressure.open_load import open_load
from cli.pressure.requests import Mix, bodies
from orchestrator.control_policy import Hardware
from orchestrator.core.profile import ModelProfile
from orchestrator.policy import Policy
from orchestrator.profiles import profile_path, read_profile
from orchestrator.profiles.format import ImageFacts
from orchestrator.profiles.pressure import Row
from orchestrator.simulator.on_one_host import on_one_host, workload_of
from orchestrator.simulator.run import simulate
from orchestrator.simulator.workload import Workload
from stages.types import Stage

REPLICAS = {Stage.ENCODE: 2, Stage.PREFILL: 1, Stage.DECODE: 2}
LOADS = (0.3, 0.6, 0.85)
"""Fractions of the saturated rate of the mix."""
MIX = Mix()
RESULTS = ROOT / "docs" / "results"
SEEDS = 5
_PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A running system that serves `tiny`.

    Attributes:
        hops: Tells how many hops each replica has been through, by its name.
    """

    port: int
    hops: Callable[[], Mapping[str, int]]


def served(system: Live, rate_per_s: float, duration_s: float, seed: int) -> tuple[Seen, Workload]:
    """Run a load; return what was seen, and its requests as they turned out."""
    # The same arrivals and shapes at every repeat, with other images and words, so that no cache knows them.
    rng = random.Random(rate_per_s)
    shapes = [MIX.draw(rng) for _ in range(int(rate_per_s * duration_s))]
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


def simulated(policy: Policy, profile: ModelProfile, work: Workload, hardware: Hardware) -> Seen:
    """Return the medians over several seeds."""
    seen = [_simulate_once(policy, profile, work, hardware, seed) for seed in range(SEEDS)]
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


def as_figure(row: Compared) -> Figure:
    """Return a comparison as a figure of the benchmark."""
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
