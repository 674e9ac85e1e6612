"""The `tercet` command: which module has which subcommand."""

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS: Mapping[str, str] = {
    "up": "cli.up:up_command",
    "ask": "cli.ask:ask",
    "status": "cli.status:status",
    "models": "cli.models:models_app",
    "policy": "cli.policy:policy_app",
    "simulate": "cli.simulate:simulate_command",
    "compare": "cli.compare:compare_command",
    "tune": "cli.tune:tune_command",
    "explain": "cli.explain:explain_command",
    "advise": "cli.advise:advise_command",
    "profile": "cli.profile:profile_app",
    "twin": "cli.twin:twin_command",
    "experiments": "cli.experiments:experiments_command",
    "emulate": "cli.emulate:emulate_command",
    "controller": "cli.controller:controller_command",
    "publisher": "cli.publisher:publisher_command",
    "cluster": "cli.cluster:cluster_command",
    "cluster-up": "cli.cluster_up:cluster_up_command",
    "cluster-down": "cli.cluster_up:cluster_down_command",
}
"""Module and function, or group of further commands, of each."""


class _Commands(Mapping[str, Any]):
    """Typer's commands by name; each is imported once asked for: all take a second or two."""

    def __getitem__(self, name: str) -> Any:
        found = resolve_name(COMMANDS[name])
        holder = found if isinstance(found, typer.Typer) else typer.Typer(add_completion=False)
        if holder is not found:
            holder.command(name)(found)
        command = get_command(holder)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Tercet(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]  # nothing adds to them


app = typer.Typer(cls=_Tercet, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def tercet() -> None:
    """Serve multimodal LLM requests as three stages: encode, prefill, decode."""


def main() -> None:
    """Run the command line."""
    app()
