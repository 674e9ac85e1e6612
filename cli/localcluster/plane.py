"""A control plane: etcd, the API server, controllers, the scheduler, and KWOK in place of kubelets."""

import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cli.child import die_with_parent

_STAGES = Path(__file__).with_name("stages.yaml")
_READY_S = 60.0
_GRACE_S = 10.0
_ADMIN = "admin"


class ControlPlaneDied(RuntimeError):
    """One of the processes ended by itself; the message has its last words."""


class ControlPlane:
    """One control plane, running on free ports of the loopback interface, with RBAC and TLS.

    Attributes:
        kubeconfig: Of its administrator.
        url: Of the API server.
    """

    def __init__(self, programs: Mapping[str, Path], folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_urlsafe(24)
        self.kubeconfig = folder / "kubeconfig"
        self.url = ""

    def start(self) -> None:
        """Return when the API server answers and nodes can join.

        Raises:
            ControlPlaneDied: A process ended, or the API server did not become ready in time.
        """
        client, peer, api = _free_ports(3)
        self.url = f"https://127.0.0.1:{api}"
        self._write_secrets()
        self._start_etcd(client, peer)
        self._start_api_server(client, api)
        self._wait_until_ready()
        shared = ["--kubeconfig", str(self.kubeconfig)]
        key = ["--service-account-private-key-file", str(self._folder / "accounts.key")]
        alone = ["--leader-elect=false", "--secure-port=0"]
        self._run("kube-controller-manager", [*shared, *key, *alone, "--use-service-account-credentials"])
        self._run("kube-scheduler", [*shared, *alone])
        # Without leases of its nodes the control plane would take them for dead after 40 s.
        nodes = ["--manage-all-nodes=true", "--node-lease-duration-seconds=40"]
        self._run("kwok", [*shared, *nodes, "--config", str(_STAGES), "--server-address="])

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids by program."""
        return {name: process.pid for name, process in self._processes.items()}

    def check(self) -> None:
        """Raise ControlPlaneDied if a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ControlPlaneDied(f"{name} ended with {process.returncode}:\n{self._last_words(name)}")

    def stop(self) -> None:
        """End every process, the API server before its store."""
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_etcd(self, client: int, peer: int) -> None:
        urls = {"client": f"http://127.0.0.1:{client}", "peer": f"http://127.0.0.1:{peer}"}
        flags = ["--data-dir", str(self._folder / "etcd"), "--initial-cluster", f"default={urls['peer']}"]
        for kind, url in urls.items():
            flags += [f"--listen-{kind}-urls", url]
        flags += ["--advertise-client-urls", urls["client"], "--initial-advertise-peer-urls", urls["peer"]]
        # Nothing here outlives the process, so nothing has to reach the disk.
        self._run("etcd", [*flags, "--unsafe-no-fsync"])

    def _start_api_server(self, etcd: int, port: int) -> None:
        accounts = str(self._folder / "accounts.key")
        flags = {
            "etcd-servers": f"http://127.0.0.1:{etcd}",
            "bind-address": "127.0.0.1",
            "secure-port": str(port),
            "cert-dir": str(self._folder / "certificates"),
            "token-auth-file": str(self._folder / "tokens.csv"),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": accounts,
            "service-account-signing-key-file": accounts,
            "service-cluster-ip-range": "10.96.0.0/16",
        }
        self._run("kube-apiserver", [f"--{name}={value}" for name, value in flags.items()])

    def _write_secrets(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (self._folder / "accounts.key").write_bytes(pem)
        (self._folder / "tokens.csv").write_text(f'{self._token},{_ADMIN},{_ADMIN},"system:masters"\n')
        cluster = {"server": self.url, "certificate-authority": str(self._certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tercet", "cluster": cluster}],
            "users": [{"name": _ADMIN, "user": {"token": self._token}}],
            "contexts": [{"name": "tercet", "context": {"cluster": "tercet", "user": _ADMIN}}],
            "current-context": "tercet",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    @property
    def _certificate(self) -> Path:
        # The API server makes it at start, followed by that of the authority that signed it.
        return self._folder / "certificates" / "apiserver.crt"

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _READY_S
        while not self._ready():
            self.check()
            if time.monotonic() > deadline_s:
                words = self._last_words("kube-apiserver")
                raise ControlPlaneDied(f"the API server is not ready after {_READY_S:.0f} s:\n{words}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        if not self._certificate.exists():
            return False
        trusted = ssl.create_default_context(cafile=self._certificate)
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            answer = httpx.get(
                f"{self.url}/readyz", headers=headers, verify=trusted, timeout=2.0, trust_env=False
            )
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK

    def _run(self, name: str, flags: Sequence[str]) -> None:
        with self._log(name).open("wb") as output:
            self._processes[name] = subprocess.Popen(
                [str(self._programs[name]), *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop them in order
                preexec_fn=die_with_parent,
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str, lines: int = 5) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def running(programs: Mapping[str, Path]) -> Iterator[ControlPlane]:
    """Run a control plane; nothing of it is left afterwards.

    Raises:
        ControlPlaneDied: See `ControlPlane.start`.
    """
    folder = Path(tempfile.mkdtemp(prefix="tercet-cluster-"))
    plane = ControlPlane(programs, folder)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    # All at once, so that none is given twice.
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
