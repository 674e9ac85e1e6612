"""Command lines of the control plane's programs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from localcluster.layout import Layout, User

SERVICE_RANGE = "10.96.0.0/16"
_CLIENT = {"kube-api-qps": "500", "kube-api-burst": "1000"}
"""A control plane of a laptop waits for itself at the default rates, made for many clients."""


def etcd_command(program: Path, layout: Layout) -> list[str]:
    """Return how etcd runs: on loopback, without waiting for the disk, as nothing is kept."""
    client, peer = (f"http://127.0.0.1:{port}" for port in (layout.etcd_port, layout.peer_port))
    return _command(
        program,
        {
            "data-dir": str(layout.folder / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",
        },
    )


def apiserver_command(program: Path, layout: Layout) -> list[str]:
    """Return how the API server runs: TLS by a certificate that it signs itself, tokens, RBAC."""
    return _command(
        program,
        {
            "etcd-servers": f"http://127.0.0.1:{layout.etcd_port}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": str(layout.api_port),
            "endpoint-reconciler-type": "none",  # loopback is refused as an endpoint
            "cert-dir": str(layout.certificates),
            "token-auth-file": str(layout.tokens),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(layout.key),
            "service-account-signing-key-file": str(layout.key),
            "service-cluster-ip-range": SERVICE_RANGE,
            "allow-privileged": "true",
        },
    )


def client_commands(programs: Mapping[str, Path], layout: Layout) -> Iterator[tuple[str, list[str]]]:
    """Yield name and command of each program that needs the API server up."""
    manager, scheduler, kwok = "kube-controller-manager", "kube-scheduler", "kwok"
    unserved = {"leader-elect": "false", "secure-port": "0", **_CLIENT}
    yield (
        manager,
        _command(
            programs[manager],
            {
                "kubeconfig": str(layout.kubeconfig(User.CONTROLLER_MANAGER)),
                "use-service-account-credentials": "true",
                "service-account-private-key-file": str(layout.key),
                "root-ca-file": str(layout.ca),
                **unserved,
            },
        ),
    )
    kubeconfig = str(layout.kubeconfig(User.SCHEDULER))
    yield scheduler, _command(programs[scheduler], {"kubeconfig": kubeconfig, **unserved})
    yield (
        kwok,
        _command(
            programs[kwok],
            {
                "kubeconfig": str(layout.kubeconfig(User.KWOK)),
                "config": str(layout.stages),
                "manage-nodes-with-annotation-selector": "kwok.x-k8s.io/node=fake",
                "node-lease-duration-seconds": "40",
                "cidr": "10.128.0.0/10",
            },
        ),
    )


def _command(program: Path, flags: Mapping[str, str]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]
