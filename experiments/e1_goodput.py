"""E1: how much goodput does splitting the stages bring on 128 A100s, and what of it is due to what?"""

from collections.abc import Sequence
from functools import partial

from experiments.goals import goal
from experiments.goodput import Bench, Layout, accelerators, bound_per_s, goodputs, slowdown
from experiments.layouts import TUNING_SEEDS, encode_apart, monolith, tuned
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import base, twin
from experiments.stats import interval
from experiments.tuned import found
from experiments.write import factor_plot, table
from stages.types import Stage

GPUS = 128
FACTORS = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0)
MODELS = ("internvl-26b", "llama-11b")
SYSTEMS = (
    "monolith RR",
    "monolith LW",
    "monolith LW DP",
    "EP|D",
    "E|PD 20:48",
    "E|PD",
    "E|P|D",
)
STEPS = ("E|PD RR in order", "E|PD RR", "E|PD")
"""What decoupling alone brings, then ordering by slack, then routing."""
MODSERVE = {"internvl-26b": 5.5, "llama-11b": 3.3}
"""Throughput of E|PD over a monolith in the paper, which states neither c nor the monolith's router."""
EXPECTED = {"monolith RR": (4.0, 6.0), "monolith LW": (1.5, 2.3), "monolith LW DP": (1.0, 1.2)}
"""Times the goodput of a monolith that a tuned split was expected to have at c = 20, images clipped."""
_FAMILIES = {"EP|D": "ep-d", "E|PD": "e-pd", "E|P|D": "e-p-d"}
_DAY_S = 86_400.0


def bench(model: str, images: str, seed: int, scale: Scale) -> Bench:
    """Return requests of the twin of one seed, from 9 o'clock of a weekday on."""
    policy, control = base(model)
    requests = 800 if scale.quick else 5_000
    work = twin(seed)
    work = work.clipped(16) if images == "clipped" else work
    day = work.slice(1.0 * _DAY_S - 3 * 3_600.0, 2.0 * _DAY_S)
    share = min(1.0, requests / max(1, len(day)))
    return Bench(policy=policy, control=control, fleet="a100=16x8", work=day.slice(0.0, share * day.span_s))


def layouts(system: str, model: str, images: str, scale: Scale) -> list[Layout]:
    """Return the layout of a system for each SLO factor."""
    if system in _FAMILIES:
        return _tuned(_FAMILIES[system], model, images, scale)
    if system.startswith("E|PD RR"):
        best = _tuned("e-pd", model, images, scale)
        in_order = system.endswith("in order")
        return [
            encode_apart(split.counts[Stage.ENCODE], GPUS, "e-pd-round-robin", in_order=in_order)
            for split in best
        ]
    fixed = {
        "monolith RR": monolith("monolith-round-robin", GPUS),
        "monolith LW": monolith("monolith-least-work", GPUS),
        "monolith LW DP": monolith("monolith-least-work-vit-dp", GPUS),
        "E|PD 20:48": encode_apart(48, GPUS),
    }
    return [fixed[system]] * len(FACTORS)


def _tuned(family: str, model: str, images: str, scale: Scale) -> list[Layout]:
    seeds = TUNING_SEEDS[:1] if scale.quick else TUNING_SEEDS
    benches = [bench(model, images, seed, scale) for seed in seeds]
    return found(f"E1 {scale.name} {family} {model} {images}", lambda: tuned(benches, family, GPUS, FACTORS))


def points(scale: Scale) -> list[Point]:
    """Return both models on clipped images, and at full scale on unclipped ones."""
    variants = ("clipped",) if scale.quick else ("clipped", "unclipped")
    return [
        point(model=model, images=images, system=system)
        for images in variants
        for model in MODELS
        for system in dict.fromkeys((*SYSTEMS, *(STEPS if images == "clipped" else ())))
    ]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the goodput at each SLO factor, requests per second, and the splits."""
    model, images, system = at.text("model"), at.text("images"), at.text("system")
    given = bench(model, images, seed, scale)
    most = bound_per_s(given.control, given.work, GPUS)
    splits = layouts(system, model, images, scale)
    row: dict[str, float | str | None] = {"bound": most}
    for layout in _unique(splits):
        mine = [factor for factor, split in zip(FACTORS, splits, strict=True) if split == layout]
        reached = goodputs(partial(slowdown, given, layout, seed=seed), mine, most)
        for factor, goodput in zip(mine, reached, strict=True):
            row[f"c{factor:g}"] = goodput
            row[f"split{factor:g}"] = described(layout)
    assert accelerators(splits[0], given.control) <= GPUS
    return row


def _unique(splits: Sequence[Layout]) -> list[Layout]:
    return [split for index, split in enumerate(splits) if split not in splits[:index]]


def described(layout: Layout) -> str:
    """Return the replicas of each pool for people, such as 48 E, 20 PD."""
    names = {"e-pd": "PD", "e-pd-round-robin": "PD"}
    parts = []
    for stage, count in layout.counts.items():
        name = stage[0].upper()
        if stage is Stage.PREFILL:
            name = names.get(layout.system, "P")
        if stage is Stage.ENCODE and layout.system == "ep-d":
            name = "EP"
        parts.append(f"{count} {name if not layout.system.startswith('monolith') else 'EPD'}")
    return ", ".join(parts)


def expected_s(at: Point, scale: Scale) -> float:
    """Return about how long a point takes; tuned ones search first, once a process."""
    searches = at.text("system") in _FAMILIES
    if scale.quick:
        return 38.0 if searches else 6.0
    return 90.0 if searches else 60.0


def written(findings: Findings) -> Section:
    """Return goodput by SLO factor, as tables, curves and ratios to the baselines."""
    parts, plots = [], {}
    variants = list(dict.fromkeys((p.text("images"), p.text("model")) for p in findings.points()))
    for images, model in variants:
        name = f"e1-{model}-{images}.svg"
        goodput = {
            system: [interval(findings.values(p, f"c{c:g}")) for c in FACTORS]
            for system in SYSTEMS
            for p in [point(model=model, images=images, system=system)]
        }
        plots[name] = factor_plot(
            f"Goodput of {model}, images {images}",
            "requests/s",
            {
                system: list(zip(FACTORS, [i.mean for i in each], strict=True))
                for system, each in goodput.items()
            },
        )
        parts.append(f"### {model}, images {images}\n\n![goodput by SLO factor](results/{name})\n")
        rows = [(system, *[i.text for i in each]) for system, each in goodput.items()]
        parts.append("Goodput, requests/s.\n\n" + table(("system", *[f"c = {c:g}" for c in FACTORS]), rows))
        parts.append(_gains(findings, model, images))
        parts.append(_beside_the_paper(findings, model, images))
        if images == "clipped":
            parts.append(_expected(findings, model, images))
            parts.append(_ablation(findings, model, images))
    return Section(text="\n".join(parts), plots=plots)


def _gains(findings: Findings, model: str, images: str) -> str:
    best = point(model=model, images=images, system="E|P|D")
    rows = []
    for system in SYSTEMS[:-1]:
        other = point(model=model, images=images, system=system)
        rows.append((system, *[_ratio(findings, best, other, f"c{c:g}") for c in FACTORS]))
    splits = [str(m.row.get(f"split{c:g}")) for c in FACTORS for m in findings.measured if m.point == best][
        :: max(1, len([m for m in findings.measured if m.point == best]))
    ]
    text = f"E|P|D over each other system. Its splits: {'; '.join(splits)}.\n\n"
    return text + table(("over", *[f"c = {c:g}" for c in FACTORS]), rows)


def _beside_the_paper(findings: Findings, model: str, images: str) -> str:
    """Say where ModServe's figure falls on these curves, and where splitting loses."""
    lines = []
    for system in ("E|PD", "E|P|D"):
        for baseline in SYSTEMS[:3]:
            one, other = (point(model=model, images=images, system=name) for name in (system, baseline))
            pairs = [
                (factor, interval(findings.ratios(one, other, name)).mean)
                for factor in FACTORS
                for name in [f"c{factor:g}"]
            ]
            known = [(factor, gain) for factor, gain in pairs if gain == gain]
            if known:
                lines.append(_in_words(system, baseline, model, known))
    return "\n".join(lines) + "\n"


def _in_words(system: str, baseline: str, model: str, gains: Sequence[tuple[float, float]]) -> str:
    paper = MODSERVE[model]
    near, nearest = min(gains, key=lambda pair: abs(pair[1] - paper))
    loses = [f"{factor:g}" for factor, gain in gains if gain < 1.0]
    lost = f"; it loses at c = {', '.join(loses)}" if loses else ""
    return (
        f"- {system} over {baseline}: {min(g for _, g in gains):.2f} to {max(g for _, g in gains):.2f} ×, "
        f"nearest to ModServe's {paper} × at c = {near:g} with {nearest:.2f} ×{lost}."
    )


def _expected(findings: Findings, model: str, images: str) -> str:
    """Say what became of the gains that were expected before anything was measured."""
    split = point(model=model, images=images, system="E|PD")
    return "".join(
        goal(
            f"E|PD over {baseline} {low:g} to {high:g} × at c = 20, an order of magnitude guessed beforehand",
            interval(findings.ratios(split, point(model=model, images=images, system=baseline), "c20")),
            unit=" ×",
            low=low,
            high=high,
        )
        for baseline, (low, high) in EXPECTED.items()
    )


def _ablation(findings: Findings, model: str, images: str) -> str:
    base_point = point(model=model, images=images, system="monolith RR")
    names = {
        "E|PD RR in order": "+ encoders apart",
        "E|PD RR": "+ order by slack",
        "E|PD": "+ route by least work",
    }
    rows = [
        (
            names[step],
            *[
                _ratio(findings, point(model=model, images=images, system=step), base_point, f"c{c:g}")
                for c in FACTORS
            ],
        )
        for step in STEPS
    ]
    text = "Step by step, over the monolith with round robin.\n\n"
    return text + table(("step", *[f"c = {c:g}" for c in FACTORS]), rows)


def _ratio(findings: Findings, one: Point, other: Point, name: str) -> str:
    gains = findings.ratios(one, other, name)
    return f"{interval(gains).text} ×" if gains else "–"


E1 = Experiment(
    name="E1",
    title="Goodput of fixed replicas on 128 A100s",
    figure="c10",
    points=points,
    measure=measure,
    expected_s=expected_s,
    written=written,
)
