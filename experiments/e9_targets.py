"""E9: on which deployment service should each stage run?"""

from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.write import table
from orchestrator.core.advisor import Verdict, advise, recommend
from orchestrator.core.stage_work import Demand, Promises, StageWork, stage_works
from orchestrator.profiles import find_profile
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.mean_demand import mean_demand
from orchestrator.targets import load_targets
from stages.types import Stage

MODELS = ("internvl-2.5-26b", "llama-3.2-11b-vision")
RATES = (0.01, 0.1, 1.0, 10.0)
PROMISES = Promises(
    budget_s={Stage.ENCODE: 0.6, Stage.PREFILL: 0.9, Stage.DECODE: 0.5}, tpot_s=0.05, slots=96
)


def points(scale: Scale) -> list[Point]:
    """Return each model at each rate."""
    return [point(model=model, rate=rate) for model in MODELS for rate in RATES]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the verdict on each stage and target in words, and the target recommended."""
    known = load_targets()
    row: dict[str, str | float | None] = {}
    for work in works(at.text("model"), at.number("rate")):
        verdicts = advise(work, known.targets)
        best = recommend(verdicts)
        row[f"{work.stage}"] = best.target if best else None
        for verdict in verdicts:
            row[f"{work.stage} {verdict.target}"] = in_words(verdict)
    return row


def works(model: str, rate: float) -> list[StageWork]:
    """Return what each stage of a model does for the mean request of the Azure window at a rate."""
    profile = find_profile(model)
    rows, _ = load_workload("twin:", seed=0)
    mean = mean_demand(rows.clipped(16), profile)
    demand = Demand(
        requests_per_s=rate,
        images=mean.images,
        image_share=mean.image_share,
        text_tokens=mean.text_tokens,
        output_tokens=mean.output_tokens,
    )
    return [
        w for w in stage_works(profile, demand, PROMISES, load_targets().processor) if w.calls_per_request
    ]


def in_words(verdict: Verdict) -> str:
    """Return dollars a month and the P99, or why not."""
    found = verdict.estimate
    if found is None:
        return "no: " + ", ".join(str(o.reason) for o in verdict.obstacles)
    late = "" if verdict.within_budget else " (P99 over budget)"
    return f"${found.usd_per_month:,.0f}, P99 {found.latency_p99_s:.2g} s{late}"


def written(findings: Findings) -> Section:
    """Return a table for each model and stage: target by rate."""
    targets = [target.name for target in load_targets().targets]
    parts = []
    for model in dict.fromkeys(p.text("model") for p in findings.points()):
        for stage in Stage:
            rows = [
                (target, *[_cell(findings, point(model=model, rate=rate), stage, target) for rate in RATES])
                for target in targets
            ]
            best = [_cell(findings, point(model=model, rate=rate), stage, "") for rate in RATES]
            heads = ("target", *[f"{rate:g}/s" for rate in RATES])
            parts.append(f"### {model}, {stage}\n\n{table(heads, [*rows, ('recommended', *best)])}")
    return Section(text="\n".join(parts), plots={})


def _cell(findings: Findings, at: Point, stage: Stage, target: str) -> str:
    row = next(m.row for m in findings.measured if m.point == at)
    return str(row.get(f"{stage} {target}".strip()) or "none")


E9 = Experiment(
    name="E9",
    title="Deployment targets, stage by stage",
    figure=None,
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 1.5,
    written=written,
)
