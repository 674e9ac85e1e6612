"""`tercet cluster`."""

import signal
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cli.refuse import MISTAKEN, refuse
from orchestrator.simulator.fleet_spec import FleetError, parse_fleet

LEVELS = "topology.kubernetes.io/zone,example.com/block,example.com/rack"

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stop(BaseException):
    """Somebody asked to stop; no handler of ordinary errors may swallow it."""


def cluster_command(
    fleet: Annotated[
        str, typer.Option(help="Nodes, as HARDWARE=NODESxACCELERATORS with commas; empty for none.")
    ] = "h100=8x8,a100=8x8,l40s=8x4",
    speed_up: Annotated[
        float | None,
        typer.Option(
            help="Nodes start so many times as quickly as data/accelerators.yaml says; without at once.",
            min=0.001,
            max=1e6,
        ),
    ] = None,
    levels: Annotated[str, typer.Option(help="Node labels of the topology, widest first.")] = LEVELS,
) -> None:
    """Run a Kubernetes control plane with simulated nodes on this machine until Ctrl-C."""
    # kubernetes and httpx are slow to import, and no other command needs them
    from cli.cluster_nodes import add_nodes
    from localcluster.cluster import NotReady, running_cluster
    from localcluster.processes import ProcessDied
    from localcluster.programs import ProgramMissing

    for number in _STOPS:
        signal.signal(number, _stop)
    try:
        named = tuple(filter(None, levels.split(",")))
        nodes = parse_fleet(fleet, named) if fleet else ()
        with running_cluster(typer.echo) as cluster:
            add_nodes(cluster.kubeconfig, nodes, named, speed_up)
            typer.echo(f"kubeconfig: {cluster.kubeconfig}")
            cluster.watch()
    except _Stop:
        return
    except (FleetError, NotReady, ProcessDied, ProgramMissing) as error:
        refuse(str(error), MISTAKEN)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in _STOPS:  # the way down takes a moment and is to be walked to its end
        signal.signal(each, signal.SIG_IGN)
    raise _Stop
