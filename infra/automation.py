"""The program, run from this process by Pulumi's Automation API: without a language plugin."""

import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import yaml
from pulumi import automation
from pulumi.runtime import _grpc_settings

from infra.program import ROOT, main

PROJECT = "tercet"
Step = Literal["up", "preview", "destroy"]

PACK = ROOT / "infra" / "policy_pack"

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
    # Behind address and folder come options of `PulumiPolicy.yaml`, which are for Pulumi's language plugin.
    make_plugin(folder, "pulumi-analyzer-policy-python", "pulumi.policy", given='"$1" "$2"')
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


def run(stack: automation.Stack, step: Step, say: Callable[[str], None], limits: Path | None = None) -> None:
    """Create or update what a stack declares, say what that would change, or delete it.

    Args:
        stack: From `open_stack`.
        step: Which of these, as Pulumi calls it.
        say: Told line by line what happens.
        limits: Hold the stack against the policy pack first, with this configuration; nothing is asked of a
            stack that is deleted.

    Raises:
        Unfinished: Not all was done; another run goes on from there.
    """
    # When a run fails, Pulumi ends before the program hears of it; gRPC would print tracebacks of that.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    packs, configs = ([str(PACK)], [str(limits)]) if limits else (None, None)
    preview = partial(stack.preview, policy_packs=packs, policy_pack_configs=configs)
    steps: Mapping[Step, Callable[..., object]] = {
        "up": stack.up,
        "preview": preview,
        "destroy": stack.destroy,
    }
    try:
        if limits and step == "up":  # a pack judges whole stacks, and during `up` at the end
            preview(on_output=say)
        steps[step](on_output=say)
    except automation.CommandError as error:
        raise Unfinished from error


def make_plugin(folder: Path, name: str, module: str, given: str = '"$@"') -> None:
    """Have a module of this Python run as a plugin of the stacks of a folder.

    Args:
        folder: As `open_stack` has it.
        name: Of the program that Pulumi looks for.
        module: What runs.
        given: Which of the plugin's arguments the module gets, as a shell has it.
    """
    program = programs(folder) / name
    program.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-u", "-P", "-m", module])
    program.write_text(f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {command} {given}\n")
    program.chmod(0o755)


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
