"""How simulations are shown on a terminal: progress, tables, and what requests they were of."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator.simulator.figures import Figures
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.workload import Workload


def progress_bar(quiet: bool) -> Progress:
    """Return a bar on the error output, which goes when it is done; nothing if `quiet`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)


def figures_table(figures: Figures, bold: int | None = None) -> Table:
    """Return figures as a table, a row of them in bold."""
    table = plain_table(*figures.columns)
    for number, row in enumerate(figures.rows):
        table.add_row(*row, style="bold" if number == bold else None)
    return table


def plain_table(*columns: str) -> Table:
    """Return an empty table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def print_notes(subjects: Sequence[Subject]) -> None:
    """Print what was repaired in traces, and what loads were taken to be."""
    for note in (note for subject in subjects for note in subject.notes):
        Console().print(f"note: {note}", style="dim")


def requests_text(work: Workload) -> str:
    """Return what requests these are, for people."""
    return f"{len(work):,} requests of {work.name} ({work.label})"


def trace_as_json(subject: Subject) -> dict[str, Any]:
    """Return what requests these are, for programs."""
    return {"name": subject.workload.name, "label": subject.workload.label, "notes": subject.notes}
