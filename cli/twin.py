"""`tercet twin`: how close a trace twin is to what it was made from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from cli.refuse import MISTAKEN, refuse
from orchestrator.simulator.calibration import calibrate, per_minute
from orchestrator.simulator.load import SHIPPED_PER_MINUTE, load_tables
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.traces import Notes, read_trace
from orchestrator.simulator.twin import trace_twin
from orchestrator.simulator.twin_report import Statistic, table_report, twin_report


def twin_command(
    counts: Annotated[
        Path, typer.Argument(help="Requests per minute: a CSV with timestamp and requests.", dir_okay=False)
    ] = SHIPPED_PER_MINUTE,
    trace: Annotated[
        Path | None, typer.Option(help="A trace to make a twin of, in place of counts.", dir_okay=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the twin.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Set a trace twin against what it was made from, statistic by statistic; the twin is simulated."""
    try:
        typer.echo("making the twin …", err=True)
        found, notes = _of_trace(trace, seed) if trace else _of_counts(counts, seed)
    except TraceError as error:
        refuse(str(error), MISTAKEN)
    if as_json:
        typer.echo(json.dumps({"notes": notes, "statistics": [asdict(each) for each in found]}))
        return
    for note in notes:
        typer.echo(note, err=True)
    Console().print(_table(found))


def _of_counts(file: Path, seed: int) -> tuple[tuple[Statistic, ...], Notes]:
    counts, calibration, notes = load_tables(file)
    twin = trace_twin(counts, calibration, np.random.default_rng(seed))
    return table_report(twin, counts, calibration), notes


def _of_trace(file: Path, seed: int) -> tuple[tuple[Statistic, ...], Notes]:
    real, notes = read_trace(str(file))
    twin = trace_twin(per_minute(real), calibrate(real), np.random.default_rng(seed))
    return twin_report(twin, real), notes


def _table(found: tuple[Statistic, ...]) -> Table:
    table = Table("statistic", box=None)
    for head in ("real", "twin", "KS distance"):
        table.add_column(head, justify="right")
    for each in found:
        distance = "" if each.ks is None else f"{each.ks:.4f}"
        table.add_row(each.name, f"{each.real:,.4g}", f"{each.twin:,.4g}", distance)
    return table
