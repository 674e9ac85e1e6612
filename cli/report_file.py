"""Files that appear whole or not at all, such as reports."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.refuse import MISTAKEN, refuse

Report = Annotated[
    Path | None,
    typer.Option(help="Also draw what came of it into this HTML file, which opens offline.", dir_okay=False),
]


def report_asked(report: Path | None) -> None:
    """Refuse a report that could not be kept, before any work is done for it."""
    if report:
        _kept(report, lambda: check_writable(report))


def keep_report(report: Path | None, text: Callable[[], str], *, quiet: bool) -> None:
    """Write a report if one is asked for, and say where; on the error output if `quiet`."""
    if report:
        _kept(report, lambda: write_whole(report, text()))
        typer.echo(f"report: {report}", err=quiet)


def _kept(file: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        refuse(f"cannot write the report {file}: {error.strerror}", MISTAKEN)


def check_writable(file: Path) -> None:
    """Find out before the work is done whether its result can be kept.

    Raises:
        OSError: It cannot.
    """
    partial = _partial(file)
    partial.touch()
    partial.unlink()


def write_whole(file: Path, text: str) -> None:
    """Write a file, so that nobody ever sees a part of it.

    Raises:
        OSError: It cannot be written; what was there is unharmed.
    """
    partial = _partial(file)
    try:
        # Names of files may hold bytes that are no UTF-8.
        partial.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")
