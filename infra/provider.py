"""Pulumi's Kubernetes provider: the official one, or what stands in for it."""

from collections.abc import Callable
from pathlib import Path

from pulumi import automation

from infra.automation import make_plugin, programs
from infra.components.kube import PROVIDER_VERSION

_NAME = "kubernetes"
_PROGRAM = f"pulumi-resource-{_NAME}"


class NoProvider(RuntimeError):
    """The provider is neither installed nor to be had; the message says how to get it."""


def find_provider(stack: automation.Stack, folder: Path, module: str, say: Callable[[str], None]) -> None:
    """See that a stack has a provider: the one it had, the official one, else a module of this project.

    Args:
        stack: Of the folder.
        folder: As `open_stack` has it.
        module: Runs as the provider if the official one cannot be downloaded; empty for none.
        say: Told of what takes time, and of what stands in.

    Raises:
        NoProvider: The official one cannot be downloaded, and nothing stands in.
    """
    if _stand_in(folder).exists() or _installed(stack.workspace):
        return
    say(f"downloading Pulumi's Kubernetes provider {PROVIDER_VERSION}, once")
    try:
        stack.workspace.install_plugin(_NAME, f"v{PROVIDER_VERSION}")
    except automation.CommandError as error:
        if not module:
            command = f"pulumi plugin install resource {_NAME} {PROVIDER_VERSION}"
            raise NoProvider(f"the provider cannot be downloaded; try `{command}`") from error
        say("it cannot be downloaded: the stand-in that the tests use takes its place on this cluster")
        use_stand_in(folder, module)


def use_stand_in(folder: Path, module: str) -> None:
    """Have a module of the project run as the provider of the stacks of a folder."""
    make_plugin(folder, _PROGRAM, module)


def _stand_in(folder: Path) -> Path:
    return programs(folder) / _PROGRAM


def _installed(workspace: automation.Workspace) -> bool:
    plugins = workspace.list_plugins()
    return (_NAME, PROVIDER_VERSION) in {(each.name, str(each.version)) for each in plugins}
