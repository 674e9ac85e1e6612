"""What people get as tables and text, programs get as JSON."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from cli.main import app

UNTIL_STOPPED = {"up", "cluster", "cluster-up", "cluster-down", "controller", "publisher"}
"""Commands that do something and log lines on the way; they have no answer to print."""


def commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", found) for inner, found in commands(command))
        else:
            yield name, command


def test_every_command_that_answers_takes_json() -> None:
    found = dict(commands(get_command(app)))
    assert {"status", "models list", "profile show"} <= found.keys()
    without = {name for name, each in found.items() if not any("--json" in p.opts for p in each.params)}
    assert without == UNTIL_STOPPED
