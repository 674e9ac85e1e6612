"""Ports for servers that are told theirs."""

import socket

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


def test_outgoing_connections_have_other_ports() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        for _ in range(20):
            with socket.create_connection(server.getsockname()) as outgoing:
                assert outgoing.getsockname()[1] not in LISTENING
