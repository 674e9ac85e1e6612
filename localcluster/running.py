"""Which clusters run on this machine."""

import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from localcluster.cluster import FOLDER_PREFIX


def running_kubeconfigs() -> list[Path]:
    """Return the administrators' kubeconfigs of this user's clusters whose API server listens."""
    found = sorted(Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/kubeconfig"))
    return [file for file in found if file.stat().st_uid == os.getuid() and _listens(file)]


def _listens(kubeconfig: Path) -> bool:
    """A cluster that was killed leaves its folder."""
    server = urlsplit(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    with socket.socket() as probe:
        return probe.connect_ex((server.hostname, server.port)) == 0
