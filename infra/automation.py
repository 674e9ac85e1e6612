"""The program, run from this process by Pulumi's Automation API: without a language plugin."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import yaml
from pulumi import automation
from pulumi.runtime import _grpc_settings

from infra.program import ROOT, main

PROJECT = "tercet"
Step = Literal["up", "preview", "destroy"]

_NO_MEMORY = ("grpc.use_local_subchannel_pool", 1)


class CannotRun(RuntimeError):
    """The `pulumi` program does not suit; the message says why."""


class Unfinished(RuntimeError):
    """A run of Pulumi failed, after it had said why."""


def open_stack(
    name: str,
    settings: str,
    *,
    folder: Path,
    kubeconfig: Path,
    cli: Path,
    home: Path | None = None,
    program: Callable[[], None] = main,
    checkpoints: bool = True,
) -> automation.Stack:
    """Return a stack, made if it is new; whoever has the folder has all of it.

    Args:
        name: Of the stack.
        settings: What `Pulumi.<stack>.yaml` says.
        folder: Holds project, state and the programs that run.
        kubeconfig: Of the cluster.
        cli: The `pulumi` program.
        home: Where Pulumi keeps plugins; None: where it always does.
        program: What declares the resources.
        checkpoints: Save the state after every step. Without, it is saved at the end alone, which hundreds of
            objects need a fifth of the time for; Pulumi killed meanwhile then forgets what it made.

    Raises:
        CannotRun: The program is older than the package.
    """
    keep_runs_apart()
    state = folder / "state"
    for each in (_project(folder), state, programs(folder)):
        each.mkdir(parents=True, exist_ok=True)
    _link(programs(folder) / "pulumi", cli)
    write_settings(name, settings, folder=folder, kubeconfig=kubeconfig)
    options = automation.LocalWorkspaceOptions(
        work_dir=str(_project(folder)),
        pulumi_home=str(home) if home else None,
        # The cluster and what it holds are as open as this folder: a passphrase would guard nothing.
        env_vars={
            "PULUMI_BACKEND_URL": state.as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_SKIP_CHECKPOINTS": str(not checkpoints).lower(),
        },
        project_settings=automation.ProjectSettings(PROJECT, "python", main=str(ROOT / "infra")),
        pulumi_command=_command(folder),
    )
    return automation.create_or_select_stack(name, project_name=PROJECT, program=program, opts=options)


def keep_runs_apart() -> None:
    """Have no run of this process stumble over an earlier one whose port it got.

    gRPC remembers for a while, by address and for all channels alike, that nobody answered: a new run's first
    call would fail ("Resource monitor has terminated"). Pulumi has no public name for its channels' options.
    """
    options: list[tuple[str, int]] = _grpc_settings._GRPC_CHANNEL_OPTIONS
    if _NO_MEMORY not in options:
        options.append(_NO_MEMORY)


def write_settings(name: str, settings: str, *, folder: Path, kubeconfig: Path) -> None:
    """Give a stack new settings; program and provider both go to the cluster that they name."""
    document = yaml.safe_load(settings)
    document["config"]["kubernetes:kubeconfig"] = str(kubeconfig)
    (_project(folder) / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def run(stack: automation.Stack, step: Step, say: Callable[[str], None]) -> None:
    """Create or update what a stack declares, say what that would change, or delete it.

    Args:
        stack: From `open_stack`.
        step: Which of these, as Pulumi calls it.
        say: Told line by line what happens.

    Raises:
        Unfinished: Not all was done; another run goes on from there.
    """
    # When a run fails, Pulumi ends before the program hears of it; gRPC would print tracebacks of that.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    steps: Mapping[Step, Callable[..., object]] = {
        "up": stack.up,
        "preview": stack.preview,
        "destroy": stack.destroy,
    }
    try:
        steps[step](on_output=say)
    except automation.CommandError as error:
        raise Unfinished from error


def programs(folder: Path) -> Path:
    """Return where Pulumi looks first for the programs that it runs."""
    return folder / "bin"


def _project(folder: Path) -> Path:
    return folder / "project"


def _command(folder: Path) -> automation.PulumiCommand:
    try:
        return automation.PulumiCommand(str(folder))
    except automation.InvalidVersionError as error:
        raise CannotRun(str(error)) from error


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target)
