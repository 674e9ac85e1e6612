"""How a command ends when it cannot do what it was asked."""

from typing import NoReturn

import typer

UNSERVED, MISTAKEN = 1, 2
"""Exit codes: what is asked is not there or says no; or the command line itself cannot work."""


def refuse(message: str, code: int) -> NoReturn:
    """Print a message, which ends with what to do next, and exit."""
    typer.echo(f"tercet: {message}", err=True)
    raise typer.Exit(code)
