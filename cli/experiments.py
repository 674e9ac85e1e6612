"""`tercet experiments`: measures what docs/results.md says, and goes on where it was stopped."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.refuse import MISTAKEN, STOPPED, refuse
from cli.shown import plain_table
from experiments.point import FULL, QUICK, Measured, Scale
from experiments.results import Answer, keep, written
from experiments.runner import Progress as Work
from experiments.runner import run_all
from experiments.store import Store, fingerprint
from experiments.table import EXPERIMENTS


def experiments_command(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; by default all.")] = None,
    quick: Annotated[bool, typer.Option(help="A first impression, in a quarter of an hour.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes side by side.", min=1)] = 2,
    any_code: Annotated[
        bool, typer.Option(help="Keep what earlier code measured; results say which code it was.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write results.md and its plots into this folder.", file_okay=False)
    ] = None,
    rows: Annotated[
        Path, typer.Option(help="Keep measurements here, and go on from those that are.", file_okay=False)
    ] = Path(".experiments"),
    budget: Annotated[bool, typer.Option(help="Only say what is left to measure.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Run the experiments of docs/results.md, resuming; all figures are simulated."""
    for name in names or ():
        if name not in EXPERIMENTS:
            refuse(f"there is no experiment {name}; there are {', '.join(EXPERIMENTS)}", MISTAKEN)
    works = [_work(rows, name, QUICK if quick else FULL, any_code) for name in names or EXPERIMENTS]
    if not as_json:
        _print_budget(works, jobs)
    if not budget:
        _run(works, jobs, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(_as_json(works), indent=2))
    if write is not None:
        _write(rows, write)


def _work(rows: Path, name: str, scale: Scale, any_code: bool) -> Work:
    code = fingerprint()
    store = Store(rows, name, scale.name)
    return Work(
        experiment=EXPERIMENTS[name],
        scale=scale,
        store=store,
        measured=store.load(None if any_code else code),
        code=code,
    )


def _print_budget(works: Sequence[Work], jobs: int) -> None:
    console = Console()
    table = plain_table("experiment", "scale", "measured", "to do", "about min")
    table.add_column("")
    for work in works:
        left = work.budget()
        minutes = f"{left.work_s / jobs / 60.0:,.0f}"
        done = len(work.findings().measured)
        table.add_row(
            work.experiment.name, work.scale.name, str(done), str(left.runs), minutes, work.experiment.title
        )
    console.print(table)
    total_s = sum(work.budget().work_s for work in works) / jobs
    console.print(f"about {total_s / 60.0:,.0f} minutes with {jobs} processes")


def _run(works: Sequence[Work], jobs: int, *, quiet: bool) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        tasks = {
            work.experiment.name: progress.add_task(work.experiment.name, total=work.budget().work_s or 1.0)
            for work in works
        }

        def report(name: str, measured: Measured, left_s: float) -> None:
            work = next(work for work in works if work.experiment.name == name)
            done_s = work.experiment.expected_s(measured.point, work.scale)
            progress.advance(tasks[name], done_s)
            text = f"{name}, about {left_s / jobs / 60.0:,.0f} min left"
            progress.update(tasks[name], description=text)

        try:
            run_all(works, jobs, report)
        except KeyboardInterrupt:
            refuse("stopped; what was measured is kept, and the same command goes on from here", STOPPED)


def _as_json(works: Sequence[Work]) -> dict[str, Any]:
    return {
        "kind": "profile-driven simulation",
        "experiments": {
            work.experiment.name: {
                "title": work.experiment.title,
                "scale": work.scale.name,
                "left": asdict(work.budget()),
                "measured": [{**asdict(m), "point": dict(m.point.factors)} for m in work.findings().measured],
            }
            for work in works
        },
    }


def _write(rows: Path, folder: Path) -> None:
    """Write what there is: of each experiment the full answer if it is whole, else the quick one."""
    answers = []
    for name in EXPERIMENTS:
        full, quick = (_work(rows, name, scale, any_code=True) for scale in (FULL, QUICK))
        best = full if full.measured and not full.missing() else quick
        if best.measured:
            answers.append(Answer(experiment=best.experiment, findings=best.findings()))
    keep(folder, *written(answers, date=datetime.now(UTC).date().isoformat()))
    typer.echo(f"results: {folder / 'results.md'}", err=True)
