"""`tercet tune`: the cheapest fixed counts that keep a policy's promises, and so its E:P:D ratio."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.report_file import Report, keep_report, report_asked
from cli.shown import figures_table, print_notes, progress_bar, requests_text, trace_as_json
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
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.tune import Tuned, tune
from orchestrator.simulator.tune_report import ratio_text, trial_figures, tune_report
from orchestrator.simulator.variant import Variant


def tune_command(
    policy: PolicyFile,
    trace: Trace = None,
    fleet: Fleet = None,
    trials: Annotated[int, typer.Option(help="Simulations at most.", min=1)] = 24,
    seed: Seed = 0,
    rate_scale: RateScale = "1",
    variant: AsVariant = Variant.CLIPPED,
    image_px: ImagePx = None,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest fixed counts that keep the policy's promises, and so the E:P:D ratio; simulated."""
    report_asked(report)
    traces = [trace] if trace else None
    (subject,) = load_all([policy], traces, fleet, rate_scale_of(rate_scale), seed, variant, image_px)
    with progress_bar(as_json) as progress:
        task = progress.add_task("tuning", total=trials)
        tuned = tune(subject, trials=trials, seed=seed, tried=lambda trial: progress.advance(task))
    if as_json:
        typer.echo(json.dumps(_tuned_as_json(subject, tuned), indent=2))
    else:
        _print_tuned(subject, tuned)
    keep_report(report, lambda: tune_report(subject, tuned), quiet=as_json)


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
            {
                "counts": trial.counts,
                "attainment": trial.summary.attainment,
                "gpu_hours": trial.summary.gpu_hours,
                "cost_usd": trial.summary.cost_usd,
            }
            for trial in tuned.trials
        ],
    }


def _print_tuned(subject: Subject, tuned: Tuned) -> None:
    console, best = Console(), tuned.best
    console.print(figures_table(trial_figures(tuned), bold=tuned.trials.index(best)))
    verdict = "" if best.attained else " — the SLO was not attained; raise max, --fleet or --trials"
    console.print(
        f"E:P:D = {ratio_text(best)}; {requests_text(subject.workload)}; profile-driven simulation{verdict}"
    )
    print_notes([subject])
