"""`tercet tune`: the cheapest fixed counts that keep a policy's promises, and so its E:P:D ratio."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.shown import plain_table, print_notes, progress_bar, requests_text, trace_as_json
from cli.subjects import (
    AsJson,
    AsVariant,
    Fleet,
    ImagePx,
    PolicyFile,
    RateScale,
    Seed,
    Trace,
    load_all,
    rate_scale_of,
)
from orchestrator.simulator.figures import percent_text
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.tune import Tuned, tune
from orchestrator.simulator.variant import Variant
from stages.types import Stage


def tune_command(
    policy: PolicyFile,
    trace: Trace = None,
    fleet: Fleet = None,
    trials: Annotated[int, typer.Option(help="Simulations at most.", min=1)] = 24,
    seed: Seed = 0,
    rate_scale: RateScale = "1",
    variant: AsVariant = Variant.CLIPPED,
    image_px: ImagePx = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest fixed counts that keep the policy's promises, and so the E:P:D ratio; simulated."""
    traces = [trace] if trace else None
    (subject,) = load_all([policy], traces, fleet, rate_scale_of(rate_scale), seed, variant, image_px)
    with progress_bar(as_json) as progress:
        task = progress.add_task("tuning", total=trials)
        tuned = tune(subject, trials=trials, seed=seed, tried=lambda trial: progress.advance(task))
    if as_json:
        typer.echo(json.dumps(_tuned_as_json(subject, tuned), indent=2))
    else:
        _print_tuned(subject, tuned)


def _tuned_as_json(subject: Subject, tuned: Tuned) -> dict[str, Any]:
    best = tuned.best
    return {
        "kind": "profile-driven simulation",
        "trace": trace_as_json(subject),
        "counts": best.counts,
        "attained": best.attained,
        "attainment": best.summary.attainment,
        "gpu_hours": best.summary.gpu_hours,
        "cost_usd": best.summary.cost_usd,
        "trials": [
            {"counts": t.counts, "attainment": t.summary.attainment, "cost_usd": t.summary.cost_usd}
            for t in tuned.trials
        ],
    }


def _print_tuned(subject: Subject, tuned: Tuned) -> None:
    console, best = Console(), tuned.best
    table = plain_table("encode", "prefill", "decode", "attained", "GPU-h", "cost $")
    for trial in tuned.trials:
        summary = trial.summary
        figures = (percent_text(summary.attainment), f"{summary.gpu_hours:,.2f}", f"{summary.cost_usd:,.2f}")
        style = "bold" if trial is best else None
        table.add_row(*[str(trial.counts[stage]) for stage in Stage], *figures, style=style)
    console.print(table)
    ratio = ":".join(str(best.counts[stage]) for stage in Stage)
    verdict = "" if best.attained else " — the SLO was not attained; raise max, --fleet or --trials"
    console.print(f"E:P:D = {ratio}; {requests_text(subject.workload)}; profile-driven simulation{verdict}")
    print_notes([subject])
