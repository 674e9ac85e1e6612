"""E2: for which traffic is a given split of 64 A100s right, and for which is a monolith better?"""

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments.goals import goal
from experiments.goodput import Bench, bound_per_s, goodputs, slowdown
from experiments.layouts import encode_apart, monolith
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import base, twin
from experiments.stats import Interval, interval
from experiments.write import factor_plot, table
from orchestrator.simulator.workload import Workload

GPUS = 64
FACTOR = 10.0
MODEL = "internvl-26b"
SPLITS = ("4:48", "6:40", "8:32", "10:24", "12:16")
"""Replicas for text, of four accelerators, to encoders, of one."""
MONOLITHS = ("monolith RR", "monolith LW")
WRONG = (3.0, 4.0)
"""What a wrong ratio was expected to cost."""


def with_share(work: Workload, share: float, requests: int, rng: np.random.Generator) -> Workload:
    """Return requests of a workload drawn anew, so that a fraction has images; Poisson at 1/s."""
    with_images = rng.random(requests) < share
    pools = {True: np.flatnonzero(work.images > 0), False: np.flatnonzero(work.images == 0)}
    rows: NDArray[np.int64] = np.where(
        with_images, rng.choice(pools[True], requests), rng.choice(pools[False], requests)
    )
    arrival_s = np.cumsum(rng.exponential(1.0, requests))
    return replace(
        work,
        name="twin-drawn",
        label=f"{work.label}, drawn anew with {share:.0%} image requests, Poisson",
        arrival_s=arrival_s,
        images=work.images[rows],
        context_tokens=work.context_tokens[rows],
        output_tokens=work.output_tokens[rows],
        span_s=float(arrival_s[-1]),
    )


def shares(scale: Scale) -> tuple[float, ...]:
    """Return fractions of requests with images."""
    return (0.1, 0.5, 0.9) if scale.quick else (0.1, 0.3, 0.5, 0.7, 0.9)


def points(scale: Scale) -> list[Point]:
    """Return all splits and both monoliths for each share."""
    return [point(share=share, system=system) for share in shares(scale) for system in (*SPLITS, *MONOLITHS)]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the goodput, requests per second."""
    policy, control = base(MODEL)
    requests = 1_500 if scale.quick else 6_000
    rng = np.random.default_rng((seed, round(1_000 * at.number("share"))))
    work = with_share(twin(0).clipped(16), at.number("share"), requests, rng)
    given = Bench(policy=policy, control=control, fleet="a100=8x8", work=work)
    system = at.text("system")
    if system in MONOLITHS:
        layout = monolith("monolith-round-robin" if system == "monolith RR" else "monolith-least-work", GPUS)
    else:
        layout = encode_apart(int(system.partition(":")[2]), GPUS)
    most = bound_per_s(control, work, GPUS)
    (found,) = goodputs(partial(slowdown, given, layout, seed=seed), (FACTOR,), most)
    return {"goodput": found, "bound": most}


def written(findings: Findings) -> Section:
    """Return a map: goodput of each split over each monolith, by share of image requests."""
    scale, parts, plots = findings.scale, [], {}
    for baseline in MONOLITHS:
        rows, series = [], {}
        for split in SPLITS:
            found = {share: _over(findings, share, split, baseline) for share in shares(scale)}
            rows.append((split, *[each.text for each in found.values()]))
            series[split] = [(100.0 * share, each.mean) for share, each in found.items()]
        name = f"e2-{baseline.replace(' ', '-').lower()}.svg"
        plots[name] = factor_plot(
            f"Goodput over that of {baseline}", "ratio", series, x="requests with images, %"
        )
        heads = ("text replicas : encoders", *[f"{share:.0%} images" for share in shares(scale)])
        parts.append(f"### Over {baseline}\n\n![ratio by share of images](results/{name})\n")
        parts.append(table(heads, rows))
        parts.append(_wins(findings, baseline))
    parts.append(_wrong_ratio(findings))
    return Section(text="\n".join(parts), plots=plots)


def _over(findings: Findings, share: float, one: str, other: str) -> Interval:
    return interval(
        findings.ratios(point(share=share, system=one), point(share=share, system=other), "goodput")
    )


def _wins(findings: Findings, baseline: str) -> str:
    """Say which splits are better at which shares."""
    won = {
        split: [f"{s:.0%}" for s in shares(findings.scale) if _over(findings, s, split, baseline).mean > 1.0]
        for split in SPLITS
    }
    found = "; ".join(f"{split} at {', '.join(where)}" for split, where in won.items() if where)
    return (
        f"- Goal: the sign changes near 10:24; ModServe wins up to there and loses at 12:16. Measured: over "
        f"{baseline} ahead are {found or 'none'}.\n"
    )


def _wrong_ratio(findings: Findings) -> str:
    """Say what the worst of the splits costs at each share, beside what was guessed."""
    lines = []
    for share in shares(findings.scale):
        means = {s: interval(findings.values(point(share=share, system=s), "goodput")).mean for s in SPLITS}
        best, worst = max(means, key=lambda s: means[s]), min(means, key=lambda s: means[s])
        lines.append(
            goal(
                f"the best split has {WRONG[0]:g} to {WRONG[1]:g} × the goodput of the worst, an order of "
                f"magnitude guessed beforehand; at {share:.0%} images {best} over {worst}",
                _over(findings, share, best, worst),
                unit=" ×",
                low=WRONG[0],
                high=WRONG[1],
            )
        )
    return "".join(lines)


E2 = Experiment(
    name="E2",
    title="Which split for which traffic, on 64 A100s",
    figure="goodput",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 2.0 if scale.quick else 22.0,
    written=written,
)
