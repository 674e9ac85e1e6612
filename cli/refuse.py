"""How a command ends when it cannot do what it was asked."""

from typing import NoReturn

import typer

UNSERVED, MISTAKEN, STOPPED = 1, 2, 130
"""Exit codes: what is asked is not there or says no; the command line itself cannot work; Ctrl-C."""


def refuse(message: str, code: int) -> NoReturn:
    """Print a message, which ends with what to do next, and exit."""
    typer.echo(f"tercet: {message}", err=True)
    raise typer.Exit(code)
