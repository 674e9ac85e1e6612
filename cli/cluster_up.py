"""`tercet cluster-up` and `tercet cluster-down`: Pulumi's steps on the cluster of this machine."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.refuse import MISTAKEN, UNSERVED, refuse

if TYPE_CHECKING:  # Pulumi is an extra
    from infra.automation import Step

_PROJECT = Path(__file__).resolve().parent.parent

_Stack = Annotated[str, typer.Option(help="Which Pulumi.STACK.yaml.")]
_Kubeconfig = Annotated[Path | None, typer.Option(help="Which cluster, if several run.", dir_okay=False)]
_StandIn = Annotated[
    str, typer.Option(help="Module that runs as Pulumi's Kubernetes provider if it cannot be downloaded.")
]


def cluster_up_command(
    stack: _Stack = "simulated",
    kubeconfig: _Kubeconfig = None,
    stand_in: _StandIn = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Say what would come and what it would take; create nothing.")
    ] = False,
    limits: Annotated[
        Path | None,
        typer.Option(help="JSON that the policy pack is configured with.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Create or update a stack on the cluster that `tercet cluster` runs."""
    _run(stack, kubeconfig, stand_in, "preview" if preview else "up", limits)


def cluster_down_command(
    stack: _Stack = "simulated", kubeconfig: _Kubeconfig = None, stand_in: _StandIn = ""
) -> None:
    """Delete a stack from the cluster that `tercet cluster` runs."""
    _run(stack, kubeconfig, stand_in, "destroy")


def _run(name: str, chosen: Path | None, stand_in: str, step: "Step", limits: Path | None = None) -> None:
    """Run Pulumi; the stack's state lies with its cluster and ends with it."""
    try:
        from infra.automation import CannotRun, Unfinished, open_stack, run
        from infra.provider import NoProvider, find_provider
    except ImportError:
        refuse("Pulumi is not installed: pip install 'tercet[infra]', or use `make cluster-up`", MISTAKEN)
    from localcluster.programs import ProgramMissing, find_programs

    settings, kubeconfig = _settings(name), _running(chosen)
    folder = kubeconfig.parent / "pulumi"
    try:
        program = find_programs(["pulumi"], typer.echo)["pulumi"]
        stack = open_stack(
            name, settings, folder=folder, kubeconfig=kubeconfig, cli=program, checkpoints=False
        )
        find_provider(stack, folder, stand_in, typer.echo)
        # Ctrl-C reaches Pulumi too, which finishes what is under way and says so.
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
        run(stack, step, typer.echo, limits.resolve() if limits else None)
    except (CannotRun, NoProvider, ProgramMissing) as error:
        refuse(str(error), MISTAKEN)
    except Unfinished:
        refuse("not all was done, as told above; the same command goes on from there", UNSERVED)


def _settings(stack: str) -> str:
    file = _PROJECT / f"Pulumi.{stack}.yaml"
    if not file.exists():
        known = ", ".join(sorted(each.suffixes[0][1:] for each in _PROJECT.glob("Pulumi.*.yaml")))
        refuse(f"there is no {file.name}; stacks of this folder: {known or 'none'}", MISTAKEN)
    return file.read_text()


def _running(chosen: Path | None) -> Path:
    from localcluster.running import running_kubeconfigs

    found = running_kubeconfigs()
    if chosen:
        found = [each for each in found if each == chosen.resolve()]
    if not found:
        # A kubeconfig of elsewhere may be of a cluster that matters.
        refuse(
            "no such cluster runs here: start one with `make cluster`; elsewhere use `pulumi up`", MISTAKEN
        )
    if len(found) > 1:
        listed = "\n".join(f"  --kubeconfig {each}" for each in found)
        refuse(f"several clusters run here; name one:\n{listed}", MISTAKEN)
    return found[0]
