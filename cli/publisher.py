"""`tercet publisher`: brings edits of policies to the running processes of a stack."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from cli.refuse import MISTAKEN, refuse
from orchestrator.adapters.redis_shards import RedisShards
from orchestrator.control_policy import Hardware
from orchestrator.logs import configure_logs
from orchestrator.ports import PolicySource
from orchestrator.publisher import Publisher
from orchestrator.yaml_file import FileError


def publisher_command(
    config_map: Annotated[list[str], typer.Option(help="ConfigMap with a policy; once for each service.")],
    redis_url: Annotated[
        list[str],
        typer.Option(envvar="TERCET_REDIS_URL", help="Redis of the stack; of several shards each, in order."),
    ],
    namespace: Annotated[
        str, typer.Option(envvar="TERCET_NAMESPACE", help="Where the ConfigMaps are.")
    ] = "default",
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="By default the service account of the pod, or else ~/.kube/config.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Publish policies and their edits in Redis, until Ctrl-C; a wrong one is told and not published."""
    configure_logs(process="publisher")
    try:
        hardware = Hardware.load()
    except FileError as error:
        refuse(str(error), MISTAKEN)
    asyncio.run(_run(_source(kubeconfig, namespace), config_map, hardware, redis_url))


def _source(kubeconfig: Path | None, namespace: str) -> PolicySource:
    from orchestrator.adapters.kube import NoCluster, client_of  # heavy, and nothing else needs it
    from orchestrator.adapters.kube_policies import KubePolicies

    try:
        return KubePolicies(client_of(kubeconfig), namespace)
    except NoCluster as error:
        refuse(str(error), MISTAKEN)


async def _run(source: PolicySource, names: list[str], hardware: Hardware, redis_urls: list[str]) -> None:
    shards = RedisShards(redis_urls)
    task = asyncio.ensure_future(Publisher(source, shards, names, hardware).run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass
    finally:
        await shards.aclose()
