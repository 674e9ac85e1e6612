"""Ports for servers that are told theirs."""

import socket
import sys
from pathlib import Path

import pytest

from stages.free_ports import LISTENING, free_port, free_ports


def test_ports_are_different_and_can_be_listened_on() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_listened_on_is_not_given() -> None:
    with socket.create_server(("127.0.0.2", free_port("127.0.0.2"))) as server:
        taken = server.getsockname()[1]
        with pytest.raises(OSError, match=r"fewer than 1 of the ports .* free on 127\.0\.0\.2"):
            free_ports(1, "127.0.0.2", [taken])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the range of Linux")
def test_no_outgoing_connection_is_given_such_a_port() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(LISTENING) < lowest
