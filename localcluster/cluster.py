"""A control plane that runs for as long as a `with` block."""

import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from localcluster.commands import apiserver_command, client_commands, etcd_command
from localcluster.layout import Layout, User, embed_ca, lay_out
from localcluster.processes import ProcessDied, Processes
from localcluster.programs import CONTROL_PLANE, find_programs

START_S = 60.0
"""Longest wait for a control plane. It takes about five seconds."""
FOLDER_PREFIX = "tercet-cluster-"

_ATTEMPTS = 3
_PORT_TAKEN = "address already in use"
_POLL_S = 0.1
_DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
"""Exists once the controllers run; before, the API server refuses pods."""


class NotReady(RuntimeError):
    """The control plane did not come up in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running control plane.

    Attributes:
        kubeconfig: Of an administrator.
        folder: Holds everything; gone when the cluster is.
    """

    kubeconfig: Path
    url: str
    ca: Path
    folder: Path
    processes: Processes

    def watch(self, poll_s: float = 0.5) -> None:
        """Return never.

        Raises:
            ProcessDied: A program ended by itself.
        """
        while True:
            self.processes.check()
            time.sleep(poll_s)


@contextmanager
def running_cluster(say: Callable[[str], None] = lambda _: None) -> Iterator[Cluster]:
    """Run a control plane on free ports of loopback; nothing is left of it afterwards.

    Args:
        say: Told of builds, which take minutes.

    Raises:
        ProgramMissing: A program is neither installed nor can be built.
        ProcessDied: A program ended while the cluster started.
        NotReady: It was not up within `START_S`.
    """
    programs = find_programs(CONTROL_PLANE, say)
    with ExitStack() as kept:
        yield _started(programs, kept)


def _started(programs: Mapping[str, Path], kept: ExitStack) -> Cluster:
    for _ in range(_ATTEMPTS - 1):
        try:
            return _started_once(programs, kept)
        except ProcessDied as death:
            if _PORT_TAKEN not in str(death):
                raise
            kept.close()
    return _started_once(programs, kept)


def _started_once(programs: Mapping[str, Path], kept: ExitStack) -> Cluster:
    folder = kept.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX))
    layout = lay_out(Path(folder))
    processes = Processes(layout.logs)
    kept.callback(processes.kill)
    _start(programs, layout, processes)
    return Cluster(
        kubeconfig=layout.kubeconfig(User.ADMIN),
        url=layout.url,
        ca=layout.ca,
        folder=layout.folder,
        processes=processes,
    )


def _start(programs: Mapping[str, Path], layout: Layout, processes: Processes) -> None:
    deadline_s = time.monotonic() + START_S
    processes.start("etcd", etcd_command(programs["etcd"], layout))
    processes.start("kube-apiserver", apiserver_command(programs["kube-apiserver"], layout))
    _until(lambda: layout.ca.exists(), processes, deadline_s)
    token = yaml.safe_load(layout.kubeconfig(User.ADMIN).read_text())["users"][0]["user"]["token"]
    with httpx.Client(
        base_url=layout.url,
        headers={"Authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=str(layout.ca)),
        trust_env=False,
    ) as client:
        _until(lambda: _answers(client, "/readyz"), processes, deadline_s)
        for name, command in client_commands(programs, layout):
            processes.start(name, command)
        _until(lambda: _answers(client, _DEFAULT_ACCOUNT), processes, deadline_s)
    embed_ca(layout)


def _until(done: Callable[[], bool], processes: Processes, deadline_s: float) -> None:
    while not done():
        processes.check()
        if time.monotonic() > deadline_s:
            raise NotReady(f"the control plane was not up within {START_S:.0f} s")
        time.sleep(_POLL_S)


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False
