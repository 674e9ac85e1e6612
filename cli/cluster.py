"""`tercet cluster`."""

import signal
from types import FrameType
from typing import NoReturn

import typer

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stop(BaseException):
    """Somebody asked to stop; no handler of ordinary errors may swallow it."""


def cluster_command() -> None:
    """Run a Kubernetes control plane with simulated nodes on this machine until Ctrl-C."""
    from localcluster.cluster import NotReady, running_cluster  # httpx is slow to import
    from localcluster.processes import ProcessDied
    from localcluster.programs import ProgramMissing

    for number in _STOPS:
        signal.signal(number, _stop)
    try:
        with running_cluster(typer.echo) as cluster:
            typer.echo(f"kubeconfig: {cluster.kubeconfig}")
            cluster.watch()
    except _Stop:
        return
    except (NotReady, ProcessDied, ProgramMissing) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in _STOPS:  # the way down takes a moment and is to be walked to its end
        signal.signal(each, signal.SIG_IGN)
    raise _Stop
