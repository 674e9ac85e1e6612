"""`pulumi-resource-kubernetes`: prints the port that it listens on, and serves until it is told to stop."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.request import getproxies

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from tests.cluster.provider.servicer import Servicer

_THREADS = 32
_BYTES = 64 << 20


def main() -> None:
    # As Go's programs do: no proxy stands between a machine and itself.
    os.environ["no_proxy"] = f"127.0.0.1,{getproxies().get('no', '')}"
    options = [(f"grpc.max_{way}_message_length", _BYTES) for way in ("receive", "send")]
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    with suppress(KeyboardInterrupt):  # how Pulumi ends it
        server.wait_for_termination()


main()
