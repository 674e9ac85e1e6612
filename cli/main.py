"""The `tercet` command: which module has which subcommand."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

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
    "experiments": "cli.experiments:experiments_command",
    "emulate": "cli.emulate:emulate_command",
    "controller": "cli.controller:controller_command",
    "publisher": "cli.publisher:publisher_command",
    "cluster": "cli.cluster:cluster_command",
    "cluster-up": "cli.cluster_up:cluster_up_command",
    "cluster-down": "cli.cluster_up:cluster_down_command",
}
"""Module and function, or group of further commands, of each."""


class _Commands(TyperGroup):
    """Imports a subcommand when it is asked for: all of them together take a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        holder = typer.Typer(callback=_tercet, add_completion=False)
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=cmd_name)
        else:
            holder.command(cmd_name)(found)
        group = typer.main.get_group(holder)
        return group.get_command(ctx, cmd_name)


def _tercet() -> None:
    """Hold subcommands; Typer would make one command of an app with a single one."""


app = typer.Typer(
    cls=_Commands,
    callback=_tercet,
    help="Serve multimodal LLM requests as three stages: encode, prefill, decode.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app()
