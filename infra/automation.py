"""The program, run from this process by Pulumi's Automation API: without a language plugin."""

from collections.abc import Callable
from pathlib import Path

from pulumi import automation

from infra.program import ROOT, main

PROJECT = "tercet"


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
    project, state = (folder / each for each in ("project", "state"))
    for each in (project, state, programs(folder)):
        each.mkdir(parents=True, exist_ok=True)
    _link(programs(folder) / "pulumi", cli)
    (project / f"Pulumi.{name}.yaml").write_text(settings)
    options = automation.LocalWorkspaceOptions(
        work_dir=str(project),
        pulumi_home=str(home) if home else None,
        # The cluster and what it holds are as open as this folder: a passphrase would guard nothing.
        env_vars={
            "KUBECONFIG": str(kubeconfig),
            "PULUMI_BACKEND_URL": state.as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_SKIP_CHECKPOINTS": str(not checkpoints).lower(),
        },
        project_settings=automation.ProjectSettings(PROJECT, "python", main=str(ROOT / "infra")),
        pulumi_command=_command(folder),
    )
    return automation.create_or_select_stack(name, project_name=PROJECT, program=program, opts=options)


def run(stack: automation.Stack, say: Callable[[str], None], *, destroy: bool = False) -> None:
    """Create or update what a stack declares, or delete it.

    Args:
        stack: From `open_stack`.
        say: Told line by line what happens.
        destroy: Delete.

    Raises:
        Unfinished: Not all was done; another run goes on from there.
    """
    step = stack.destroy if destroy else stack.up
    try:
        step(on_output=say)
    except automation.CommandError as error:
        raise Unfinished from error


def programs(folder: Path) -> Path:
    """Return where Pulumi looks first for the programs that it runs."""
    return folder / "bin"


def _command(folder: Path) -> automation.PulumiCommand:
    try:
        return automation.PulumiCommand(str(folder))
    except automation.InvalidVersionError as error:
        raise CannotRun(str(error)) from error


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target)
