"""`tercet controller`: scales and places the services of one cluster."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import start_http_server

from cli.refuse import MISTAKEN, refuse
from orchestrator.adapters.redis_shards import RedisShards
from orchestrator.control_policy import Hardware
from orchestrator.controller import Controller, ServicePolicy
from orchestrator.counting import steady_unix_s
from orchestrator.logs import configure_logs
from orchestrator.policy_copy import PolicyCopy, follow, look
from orchestrator.ports import Cluster
from orchestrator.yaml_file import FileError


def controller_command(
    policy: Annotated[
        list[Path], typer.Option(help="Stage policy file; once for each service.", dir_okay=False)
    ],
    redis_url: Annotated[
        list[str],
        typer.Option(envvar="TERCET_REDIS_URL", help="Redis of the stack; of several shards each, in order."),
    ],
    namespace: Annotated[
        str, typer.Option(envvar="TERCET_NAMESPACE", help="Where the pools are.")
    ] = "default",
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="By default the service account of the pod, or else ~/.kube/config.", dir_okay=False
        ),
    ] = None,
    metrics_port: Annotated[
        int, typer.Option(envvar="TERCET_METRICS_PORT", min=0, max=65_535, help="Of /metrics; 0 for none.")
    ] = 0,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="Follow what `tercet publisher` publishes; the files are what to begin with."
        ),
    ] = False,
    karpenter: Annotated[
        bool, typer.Option("--karpenter", help="Order nodes of Karpenter where there is no room.")
    ] = False,
    act: Annotated[bool, typer.Option(help="Carry decisions out, or only tell them.")] = True,
) -> None:
    """Observe, decide and apply every 5 seconds, until Ctrl-C; decisions are logged as JSON lines."""
    configure_logs(process="controller")
    copies = [PolicyCopy(path) for path in policy] if published else []
    try:
        hardware = Hardware.load()
        loaded = [ServicePolicy(path, hardware) for path in ([each.path for each in copies] or policy)]
    except FileError as error:
        refuse(str(error), MISTAKEN)
    services = {each.current().service: each for each in loaded}
    followed = dict(zip(services, copies, strict=False))
    if len(services) < len(loaded):
        refuse("two of the policy files are of the same service; give each service once", MISTAKEN)
    levels = {each.current().levels for each in loaded}
    if len(levels) > 1:
        named = " and ".join(", ".join(names) or "none" for names in sorted(levels))
        refuse(f"topology.levels differ ({named}); services of one cluster share its levels", MISTAKEN)
    from orchestrator.adapters.kube import (  # heavy, and nothing else needs it
        KubeCluster,
        NoCluster,
        client_of,
    )

    try:
        cluster = KubeCluster(
            client_of(kubeconfig), namespace, tuple(services), next(iter(levels)), karpenter=karpenter
        )
    except NoCluster as error:
        refuse(str(error), MISTAKEN)
    asyncio.run(_run(cluster, services, followed, redis_url, metrics_port, act=act))


async def _run(
    cluster: Cluster,
    services: dict[str, ServicePolicy],
    followed: dict[str, PolicyCopy],
    redis_urls: list[str],
    metrics_port: int,
    *,
    act: bool,
) -> None:
    shards = RedisShards(redis_urls)
    controller = Controller(cluster, shards.ledgers(), services, steady_unix_s(), acts=act)
    if metrics_port:
        start_http_server(metrics_port, registry=controller.metrics.registry)
    await look(shards, followed)
    following = asyncio.ensure_future(follow(shards, followed))
    task = asyncio.ensure_future(controller.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass
    finally:
        following.cancel()
        await shards.aclose()
