"""Where a cluster keeps things, and who may speak to it."""

import base64
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from stages.free_ports import free_ports

STAGES = Path(__file__).parent / "stages"


class User(StrEnum):
    """Who has a token, by the name that RBAC knows."""

    ADMIN = "tercet-admin"
    KWOK = "tercet-kwok"
    CONTROLLER_MANAGER = "system:kube-controller-manager"
    SCHEDULER = "system:kube-scheduler"


MASTERS = (User.ADMIN, User.KWOK)
"""In the group that may do everything: KWOK plays all kubelets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files in a cluster's folder and its ports on loopback."""

    folder: Path
    etcd_port: int
    peer_port: int
    api_port: int

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def certificates(self) -> Path:
        """The API server puts its certificate and key here."""
        return self.folder / "certificates"

    @property
    def ca(self) -> Path:
        """Certificate to trust: the API server's own, with its authority."""
        return self.certificates / "apiserver.crt"

    @property
    def key(self) -> Path:
        """The API server's key, which also signs the tokens of service accounts."""
        return self.certificates / "apiserver.key"

    @property
    def tokens(self) -> Path:
        """Tokens and users, as the API server reads them."""
        return self.folder / "tokens.csv"

    @property
    def stages(self) -> Path:
        """What KWOK does to nodes and pods."""
        return self.folder / "stages.yaml"

    @property
    def logs(self) -> Path:
        """Logs by program."""
        return self.folder / "logs"

    def kubeconfig(self, user: User) -> Path:
        """Return the kubeconfig of a user."""
        name = "kubeconfig" if user is User.ADMIN else f"kubeconfig-{user.rpartition(':')[2]}"
        return self.folder / name


def lay_out(folder: Path) -> Layout:
    """Return a layout with free ports, its folders made and its tokens, stages and kubeconfigs written."""
    etcd, peer, api = free_ports(3)
    layout = Layout(folder=folder, etcd_port=etcd, peer_port=peer, api_port=api)
    layout.logs.mkdir()
    tokens = {user: secrets.token_urlsafe(32) for user in User}
    rows = (f'{token},{user},{user},"{_group(user)}"' for user, token in tokens.items())
    layout.tokens.write_text("\n".join(rows) + "\n")
    for user, token in tokens.items():
        layout.kubeconfig(user).write_text(
            _kubeconfig(layout, token, {"certificate-authority": str(layout.ca)})
        )
    layout.stages.write_text("\n---\n".join(file.read_text() for file in sorted(STAGES.glob("*.yaml"))))
    return layout


def embed_ca(layout: Layout) -> None:
    """Put the certificate into the administrator's kubeconfig, so that the file may be copied elsewhere."""
    file = layout.kubeconfig(User.ADMIN)
    token = yaml.safe_load(file.read_text())["users"][0]["user"]["token"]
    data = base64.b64encode(layout.ca.read_bytes()).decode()
    file.write_text(_kubeconfig(layout, token, {"certificate-authority-data": data}))


def _group(user: User) -> str:
    return "system:masters" if user in MASTERS else "system:authenticated"


def _kubeconfig(layout: Layout, token: str, trust: dict[str, str]) -> str:
    name = "tercet"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": layout.url, **trust}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
    )
