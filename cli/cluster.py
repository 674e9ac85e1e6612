"""`tercet cluster`: a Kubernetes control plane on this machine, for looking and for tests."""

import signal
import threading
import time
from typing import Annotated

import typer

from cli.localcluster.plane import ControlPlaneDied, running
from cli.localcluster.programs import CONTROL_PLANE, NoProgram, programs
from cli.refuse import MISTAKEN, refuse
from orchestrator.simulator.fleet_spec import FleetError, parse_fleet

LEVELS = "topology.kubernetes.io/zone,example.com/block,example.com/rack"
_LOOK_S = 0.5


def cluster_command(
    fleet: Annotated[
        str, typer.Option(help="Nodes, as HARDWARE=NODESxACCELERATORS with commas.")
    ] = "h100=8x8,a100=8x8,l40s=8x4",
    levels: Annotated[str, typer.Option(help="Node labels of the topology, widest first.")] = LEVELS,
) -> None:
    """Run a real control plane with simulated nodes until Ctrl-C; prints where its kubeconfig is."""
    from cli.localcluster.nodes import add_nodes  # heavy, and nothing else needs it

    named = tuple(filter(None, levels.split(",")))
    stop = threading.Event()
    try:
        nodes = parse_fleet(fleet, named)
        found = programs(CONTROL_PLANE, lambda line: typer.echo(line, err=True))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        started_s = time.monotonic()
        with running(found) as plane:
            add_nodes(plane.kubeconfig, nodes, named)
            typer.echo(f"kubeconfig: {plane.kubeconfig}")
            took_s = time.monotonic() - started_s
            typer.echo(f"{len(nodes)} simulated nodes, ready in {took_s:.1f} s; Ctrl-C stops it", err=True)
            while not stop.wait(_LOOK_S):
                plane.check()
    except (NoProgram, ControlPlaneDied, FleetError) as error:
        refuse(str(error), MISTAKEN)
