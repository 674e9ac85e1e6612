"""`tercet compare`: scaling policies side by side on the same work."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.refuse import MISTAKEN, refuse
from cli.report_file import Report, keep_report, report_asked
from cli.shown import figures_table, print_notes, progress_bar, requests_text
from cli.subjects import (
    AsJson,
    AsVariant,
    Faults,
    Fleet,
    ImagePx,
    PolicyFiles,
    RateScale,
    Seed,
    Traces,
    faults_of,
    load_all,
    rate_scale_of,
)
from orchestrator.core.scaling import SCALERS
from orchestrator.simulator.compare import Compared, comparable, compare_found, compare_policies
from orchestrator.simulator.compare_report import (
    comparison_figures,
    comparison_report,
    found_figures,
    shortfalls,
)
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found
from orchestrator.simulator.variant import Variant


def compare_command(
    policy: PolicyFiles,
    trace: Traces = None,
    fleet: Fleet = None,
    only: Annotated[str, typer.Option(help="Scaling policies, with commas; by default all.")] = "",
    search: Annotated[
        int,
        typer.Option(
            help="Tune each policy in so many trials first, on --seed, and compare them on the next seed.",
            min=0,
        ),
    ] = 0,
    fault: Faults = None,
    seed: Seed = 0,
    rate_scale: RateScale = "1",
    variant: AsVariant = Variant.CLIPPED,
    image_px: ImagePx = None,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Put scaling policies side by side on the same work; figures are simulated."""
    if search and len(policy) > 1:
        refuse("--search is for one --policy", MISTAKEN)
    if search and fault:
        refuse(
            "--search is without --fault: parameters are searched for and judged where nothing fails",
            MISTAKEN,
        )
    report_asked(report)
    rate = rate_scale_of(rate_scale)
    subjects = load_all(policy, trace, fleet, rate, seed, variant, image_px)
    faults = faults_of(fault or [], subjects)
    names = [name.strip() for name in only.split(",") if name.strip()] or comparable()
    for name in names:
        if name not in SCALERS:
            refuse(f"there is no scaling policy {name}; there are {', '.join(comparable())}", MISTAKEN)
    if search:
        test = load_all(policy, trace, fleet, rate, seed + 1, variant, image_px)
        compared = _searched(subjects[0], test[0], names, search, seed, as_json)
        subjects = test
    else:
        with progress_bar(as_json) as progress:
            task = progress.add_task("comparing", total=len(names))
            compared = compare_policies(subjects, names, seed, faults, lambda name: progress.advance(task))
    if as_json:
        typer.echo(json.dumps(_comparison(subjects, compared), indent=2))
    else:
        _print_comparison(subjects, compared)
    keep_report(report, lambda: comparison_report(subjects, compared, fault or []), quiet=as_json)


def _searched(
    train: Subject, test: Subject, names: Sequence[str], trials: int, seed: int, quiet: bool
) -> dict[str, Compared]:
    with progress_bar(quiet) as progress:
        task = progress.add_task("searching", total=len(names) * (trials + 1))

        def tried(name: str) -> None:
            progress.update(task, advance=1, description=f"searching {name}")

        return compare_found(train, test, names, trials=trials, seed=seed, tried=tried)


def _comparison(subjects: Sequence[Subject], compared: Mapping[str, Compared]) -> dict[str, Any]:
    works = [subject.workload for subject in subjects]
    summaries = {name: each.summary for name, each in compared.items()}
    found = {name: _found_as_json(each.found) for name, each in compared.items() if each.found}
    return {
        "kind": "profile-driven simulation",
        "policy": ", ".join(subject.policy.service for subject in subjects),
        "trace": {
            "name": ", ".join(work.name for work in works),
            "label": ", ".join(work.label for work in works),
            "notes": [note for subject in subjects for note in subject.notes],
        },
        "policies": {
            name: {
                "gpu_hours": summary.gpu_hours,
                "cost_usd": summary.cost_usd,
                "attainment": summary.groups["all"].attainment,
                "ttft_p99_s": summary.groups["all"].ttft_s[99],
                "tpot_p99_s": summary.groups["all"].tpot_s[99],
                "refused": summary.endings["refused"],
                "refusals": summary.refusals,
                "unplaced_hours": summary.unplaced_hours,
                "scale_events": sum(summary.scale_events.values()),
            }
            for name, summary in summaries.items()
        },
        **({"found": found} if found else {}),
    }


def _print_comparison(subjects: Sequence[Subject], compared: Mapping[str, Compared]) -> None:
    console = Console()
    console.print(figures_table(comparison_figures(compared)))
    for text in shortfalls(compared):
        console.print(text)
    requests = " and ".join(requests_text(s.workload) for s in subjects)
    console.print(f"{requests}; profile-driven simulation")
    print_notes(subjects)
    if found := found_figures(compared):
        console.print(figures_table(found))


def _found_as_json(found: Found) -> dict[str, Any]:
    """Return the parameters of a policy, and every trial that led to them."""
    return {
        "parameters": found.best.point,
        "attained": found.best.attained,
        "trials": [
            {
                "parameters": trial.point,
                "gpu_hours": trial.summary.gpu_hours,
                "attainment": trial.summary.attainment,
            }
            for trial in found.trials
        ],
    }
