"""Runs of Pulumi in one process."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS

from infra.automation import keep_runs_apart
from stages.free_ports import free_port


class Answering(grpc.GenericRpcHandler):
    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"here")


def serving(port: int) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(1), [Answering()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def ask(channel: grpc.Channel) -> bytes:
    return channel.unary_unary("/a/b")(b"", timeout=10.0)


def test_a_run_gets_through_on_the_port_of_one_that_is_over():
    keep_runs_apart()
    keep_runs_apart()
    port = free_port()
    server = serving(port)
    with grpc.insecure_channel(f"127.0.0.1:{port}", _GRPC_CHANNEL_OPTIONS) as earlier:
        assert ask(earlier) == b"here"
        server.stop(0).wait()
        with pytest.raises(grpc.RpcError):
            ask(earlier)
        again = serving(port)
        with grpc.insecure_channel(f"127.0.0.1:{port}", _GRPC_CHANNEL_OPTIONS) as later:
            assert ask(later) == b"here"
        again.stop(0).wait()
