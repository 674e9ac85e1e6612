"""The program, run from this process by Pulumi's Automation API: without a language plugin."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from pulumi import automation

from infra.components.kube import PROVIDER_VERSION
from infra.program import ROOT, main

PROJECT = "tercet"
PROVIDER = "kubernetes"


class NoProvider(RuntimeError):
    """Pulumi's Kubernetes provider is neither installed nor to be had."""


def open_stack(
    name: str,
    settings: str,
    *,
    folder: Path,
    kubeconfig: Path,
    cli: Path,
    home: Path | None = None,
    program: Callable[[], None] = main,
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

    Raises:
        automation.InvalidVersionError: The program is older than the package.
    """
    project, state, programs = (folder / each for each in ("project", "state", "bin"))
    for each in (project, state, programs):
        each.mkdir(parents=True, exist_ok=True)
    _link(programs / "pulumi", cli)
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
        },
        project_settings=automation.ProjectSettings(PROJECT, "python", main=str(ROOT / "infra")),
        pulumi_command=automation.PulumiCommand(str(folder)),
    )
    return automation.create_or_select_stack(name, project_name=PROJECT, program=program, opts=options)


def install_provider(stack: automation.Stack) -> None:
    """See that the official provider is there, which takes the network the first time.

    Raises:
        NoProvider: It cannot be downloaded.
    """
    workspace = stack.workspace
    if any(
        (each.name, str(each.version)) == (PROVIDER, PROVIDER_VERSION) for each in workspace.list_plugins()
    ):
        return
    try:
        workspace.install_plugin(PROVIDER, f"v{PROVIDER_VERSION}")
    except automation.CommandError as error:
        raise NoProvider(str(error)) from error


def stand_in(folder: Path) -> Path:
    """Return where Pulumi looks first for a provider: what lies there stands in for the official one."""
    return folder / "bin" / f"pulumi-resource-{PROVIDER}"


def use_stand_in(folder: Path, module: str) -> None:
    """Have a module of the project run as the provider of the stacks of a folder."""
    program = stand_in(folder)
    program.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-P", "-m", module])
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {command} "$@"\n')
    program.chmod(0o755)


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target)
