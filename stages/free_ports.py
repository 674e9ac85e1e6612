"""Free TCP ports, for servers that are told theirs before they start."""

import random
import socket
from collections.abc import Iterator, Sequence
from itertools import islice

LISTENING = range(10_000, 32_768)
"""Below the ports of outgoing connections on Linux: one could take that of a server that restarts."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of `host`, an address of this machine, on which nobody listens now.

    Raises:
        OSError: There is none.
    """
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1", among: Sequence[int] = LISTENING) -> list[int]:
    """Return different ports, each as `free_port` does.

    Somebody may take one before its use: who can, starts again on others then.

    Raises:
        OSError: There are not so many.
    """
    found = list(islice(_free(host, among), count))
    if len(found) < count:
        raise OSError(f"fewer than {count} of the ports {min(among)} to {max(among)} are free on {host}")
    return found


def _free(host: str, among: Sequence[int]) -> Iterator[int]:
    for port in random.SystemRandom().sample(among, len(among)):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        yield port
