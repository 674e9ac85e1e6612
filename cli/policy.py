"""`tercet policy`: check, describe and compare policy files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli.subjects import load_all
from orchestrator.control_policy import Hardware, refusals
from orchestrator.policy import Change, Policy, PolicyError, Problem, classify, load_policy, policy_schema
from orchestrator.simulator.run import simulate
from orchestrator.simulator.summary import summarise
from orchestrator.yaml_file import FileError

policy_app = typer.Typer(help="Check, describe and compare policy files.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@policy_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Policy files.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with policy files, with line, column and the nearest valid key.

    Of a model that has a profile, also what it cannot do on its hardware, with the numbers.
    """
    found = {str(file): _problems(file) for file in files}
    problems = [problem for each in found.values() for problem in each]
    if as_json:
        _emit({"ok": not problems, "files": list(found), "problems": [_as_dict(p) for p in problems]})
    else:
        _print_check(found)
    if problems:
        raise typer.Exit(1)


@policy_app.command()
def schema(as_json: AsJson = False) -> None:
    """Print the JSON Schema of policy files, for editors (with --json on one line)."""
    typer.echo(json.dumps(policy_schema(), indent=None if as_json else 2))


@policy_app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="Policy file before the edit.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="Policy file after the edit.", show_default=False)],
    trace: Annotated[
        str | None, typer.Option(help="Requests on which to simulate both files; see `tercet simulate`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which fields differ, whether each is live or replaces pods (rollout), and what the edit does."""
    changes = classify(_load(old, as_json), _load(new, as_json))
    figures = _predicted(old, new, trace) if trace else {}
    if as_json:
        fields = [{"path": c.path, "kind": c.kind, "old": c.old, "new": c.new} for c in changes]
        rollout = any(c.kind == "rollout" for c in changes)
        _emit({"rollout": rollout, "changes": fields, **({"predicted": figures} if figures else {})})
    else:
        _print_diff(changes)
        _print_predicted(figures)


def _problems(file: Path) -> tuple[Problem, ...]:
    try:
        hardware = Hardware.load()
        load_policy(file, lambda policy: refusals(policy, file, hardware))
    except FileError as error:
        return error.problems
    return ()


def _load(file: Path, as_json: bool) -> Policy:
    try:
        return load_policy(file)
    except PolicyError as error:
        if as_json:
            _emit({"problems": [_as_dict(p) for p in error.problems]})
        else:
            typer.echo(error, err=True)
            typer.echo(f"next: mend {file}, then `tercet policy check {file}`", err=True)
        raise typer.Exit(1) from error


def _print_check(found: dict[str, tuple[Problem, ...]]) -> None:
    for file, problems in found.items():
        for problem in problems:
            typer.echo(problem, err=True)
        if not problems:
            typer.echo(f"{file}: ok")
    if any(found.values()):
        typer.echo("next: mend these and check again; docs/policy.md explains every field", err=True)


def _print_diff(changes: tuple[Change, ...]) -> None:
    for change in changes:
        typer.echo(f"{change.kind:<8} {change}")
    rollout = sum(change.kind == "rollout" for change in changes)
    typer.echo(f"{len(changes) - rollout} live, {rollout} rollout" if changes else "no difference")


def _as_dict(problem: Problem) -> dict[str, str | int]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "message": problem.message,
        "nearest": problem.nearest,
    }


def _emit(value: object) -> None:
    typer.echo(json.dumps(value))


def _predicted(old: Path, new: Path, trace: str) -> dict[str, dict[str, float]]:
    """Return GPU-hours, cost and attainment under two policy files on the same requests."""
    subjects = {which: load_all([file], [trace])[0] for which, file in (("old", old), ("new", new))}
    found = {which: summarise(simulate(subject.scenario())) for which, subject in subjects.items()}
    return {
        figure: {which: float(getattr(summary, figure)) for which, summary in found.items()}
        for figure in ("gpu_hours", "cost_usd", "attainment")
    }


def _print_predicted(figures: Mapping[str, Mapping[str, float]]) -> None:
    shown = {"gpu_hours": "GPU-hours {:,.2f}", "cost_usd": "cost ${:,.2f}", "attainment": "attainment {:.1%}"}
    for name, figure in figures.items():
        typer.echo(f"{shown[name].format(figure['old'])} → {shown[name].split()[-1].format(figure['new'])}")
    if figures:
        typer.echo("profile-driven simulation")
