"""E6: what does placing replicas near each other bring?"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from experiments.fleets import packed
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, figures, subject
from experiments.stats import interval
from experiments.write import table
from orchestrator.core.changes import Changes
from orchestrator.core.observed import Node
from orchestrator.core.planned import EdgeLevels
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.auto_rate import accelerator_s
from orchestrator.simulator.fleet_spec import parse_fleet
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import summarise
from stages.types import Stage

LEVELS = ("topology.kubernetes.io/zone", "example.com/block", "example.com/rack")
RANDOM = "anywhere, at random"
PLACEMENTS: Mapping[str, EdgeLevels] = {
    RANDOM: EdgeLevels(),
    "both edges in a zone": EdgeLevels(encode_prefill=1, prefill_decode=1),
    "both edges in a block": EdgeLevels(encode_prefill=2, prefill_decode=2),
    "both edges in a rack": EdgeLevels(encode_prefill=3, prefill_decode=3),
    "per edge: zone, then block": EdgeLevels(encode_prefill=1, prefill_decode=2),
}
"""Leading levels of zone, block and rack that both ends of an edge share."""


def service(placement: str, seed: int, scale: Scale) -> Subject:
    """Return a service on 256 hosts, in four zones of four blocks of four racks, that others have filled."""
    hours = 0.5 if scale.quick else 3.0
    given = subject("internvl-26b", day(seed, hours=hours, rate=6.0, begin_h=9.0), "a100=1x8")
    control = replace(given.control, levels=LEVELS, edges=PLACEMENTS[placement])
    return replace(given, control=control, nodes=_what_is_left(seed))


def _what_is_left(seed: int) -> tuple[Node, ...]:
    """Return hosts with the accelerators that other services left: none on half of them, four on a sixth."""
    rng = np.random.default_rng((seed, 66))
    nodes = parse_fleet("a100=256x8", LEVELS)
    left = rng.choice([0, 1, 2, 4], len(nodes), p=[0.5, 0.17, 0.16, 0.17])
    return tuple(replace(n, accelerators=int(free)) for n, free in zip(nodes, left, strict=True) if free)


def fixed(given: Subject) -> dict[Stage, int]:
    """Return counts that are busy a quarter of the time on average: work comes in bursts."""
    span_s, stages = given.workload.span_s, given.control.stages
    busy = accelerator_s(given.control, given.workload)
    return {s: max(2, round(4.0 * float(each.sum()) / span_s / stages[s].tp)) for s, each in busy.items()}


def points(scale: Scale) -> list[Point]:
    """Return the placements."""
    return [point(placement=name) for name in PLACEMENTS]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures, and how many racks they are spread over."""
    placement = at.text("placement")
    given = service(placement, seed, scale)
    counts = fixed(given)
    encode, prefill, decode = counts.values()
    params = StaticParams(encode=encode, prefill=prefill, decode=decode)
    scenario = given.scenario(scaling="static", params=params, seed=seed)
    if placement == RANDOM:
        scenario = replace(scenario, first=_scattered(given, counts, seed))
    racks = len({create.domain for create in scenario.first.create})
    return {**figures(summarise(simulate(scenario))), "racks": float(racks)}


def _scattered(given: Subject, counts: Mapping[Stage, int], seed: int) -> Changes:
    """Return the creation of replicas on hosts drawn at random."""
    order = np.random.default_rng((seed, 6)).permutation(len(given.nodes))
    return packed(given.control, counts, [given.nodes[index] for index in order])


def written(findings: Findings) -> Section:
    """Return a table of placements."""
    rows = [
        (
            at.text("placement"),
            interval(findings.values(at, "ttft_p50_s")).text,
            interval(findings.values(at, "ttft_p99_s")).text,
            interval([100.0 * a for a in findings.values(at, "attainment")]).text,
            interval(findings.values(at, "racks")).text,
        )
        for at in findings.points()
    ]
    heads = ("placement", "TTFT p50 s", "TTFT p99 s", "attained %", "racks used")
    return Section(text=f"{table(heads, rows)}\n{_beside_random(findings)}", plots={})


def _beside_random(findings: Findings) -> str:
    """Say what keeping groups together comes to."""
    lines = []
    for name in PLACEMENTS:
        at, random = point(placement=name), point(placement=RANDOM)
        p50, p99 = (interval(findings.ratios(at, random, f"ttft_{p}_s")).text for p in ("p50", "p99"))
        if name != RANDOM:
            lines.append(
                f"- {name}: {p50} × the median TTFT of random places, {p99} × its 99th percentile.\n"
            )
    return "".join(lines)


E6 = Experiment(
    name="E6",
    title="Placement by topology",
    figure="ttft_p50_s",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 7.0 if scale.quick else 60.0,
    written=written,
)
