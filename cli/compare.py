"""`tercet compare`: scaling policies side by side on the same work."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.refuse import MISTAKEN, refuse
from cli.shown import figures_table, plain_table, print_notes, progress_bar, requests_text
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
from orchestrator.simulator.compare import comparable, compare_found, compare_policies
from orchestrator.simulator.figures import Figures, percent_text, times_text
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.search import Found
from orchestrator.simulator.summary import Summary
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
    as_json: AsJson = False,
) -> None:
    """Put scaling policies side by side on the same work; figures are simulated."""
    if search and len(policy) > 1:
        refuse("--search is for one --policy", MISTAKEN)
    rate = rate_scale_of(rate_scale)
    subjects = load_all(policy, trace, fleet, rate, seed, variant, image_px)
    faults = faults_of(fault or [], subjects)
    names = [name.strip() for name in only.split(",") if name.strip()] or comparable()
    for name in names:
        if name not in SCALERS:
            refuse(f"there is no scaling policy {name}; there are {', '.join(comparable())}", MISTAKEN)
    if search:
        test = load_all(policy, trace, fleet, rate, seed + 1, variant, image_px)
        _compare_found(subjects[0], test[0], names, search, seed, as_json)
        return
    with progress_bar(as_json) as progress:
        task = progress.add_task("comparing", total=len(names))
        summaries = compare_policies(subjects, names, seed, faults, lambda name: progress.advance(task))
    if as_json:
        typer.echo(json.dumps(_comparison(subjects, summaries), indent=2))
    else:
        _print_comparison(subjects, summaries)


def _compare_found(
    train: Subject, test: Subject, names: Sequence[str], trials: int, seed: int, as_json: bool
) -> None:
    with progress_bar(as_json) as progress:
        task = progress.add_task("searching", total=len(names) * (trials + 1))

        def tried(name: str) -> None:
            progress.update(task, advance=1, description=f"searching {name}")

        compared = compare_found(train, test, names, trials=trials, seed=seed, tried=tried)
    summaries = {name: searched.summary for name, searched in compared.items()}
    if as_json:
        found = {name: _found_as_json(searched.found) for name, searched in compared.items()}
        typer.echo(json.dumps({**_comparison([test], summaries), "found": found}, indent=2))
    else:
        _print_comparison([test], summaries)
        Console().print(figures_table(_found_figures([each.found for each in compared.values()])))


def _comparison(subjects: Sequence[Subject], summaries: Mapping[str, Summary]) -> dict[str, Any]:
    works = [subject.workload for subject in subjects]
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
                "scale_events": sum(summary.scale_events.values()),
            }
            for name, summary in summaries.items()
        },
    }


def _print_comparison(subjects: Sequence[Subject], summaries: Mapping[str, Summary]) -> None:
    console = Console()
    table = plain_table(
        "policy", "GPU-h", "cost $", "attained", "TTFT p99 s", "TPOT p99 ms", "refused", "events"
    )
    for name, summary in summaries.items():
        everyone = summary.groups["all"]
        table.add_row(
            name,
            f"{summary.gpu_hours:,.2f}",
            f"{summary.cost_usd:,.2f}",
            percent_text(everyone.attainment),
            times_text({99: everyone.ttft_s[99]}, 1.0, 2),
            times_text({99: everyone.tpot_s[99]}, 1e3, 1),
            f"{summary.endings['refused']:,}",
            str(sum(summary.scale_events.values())),
        )
    console.print(table)
    requests = " and ".join(requests_text(s.workload) for s in subjects)
    console.print(f"{requests}; profile-driven simulation")
    print_notes(subjects)


def _found_figures(found: Sequence[Found]) -> Figures:
    """Return the parameters of each policy, and what they came to in training."""
    rows = [
        (
            each.scaling,
            str(len(each.trials)),
            f"{each.best.summary.gpu_hours:,.2f}",
            percent_text(each.best.summary.attainment),
            ", ".join(f"{name} {value:.3g}" for name, value in each.best.point.items()) or "–",
        )
        for each in found
    ]
    return Figures(
        ("policy", "trials", "GPU-h", "attained", "parameters found, figures of the training"), rows
    )


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
