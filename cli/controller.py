"""`tercet controller`: scales and places the services of one cluster, or of several as one."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import start_http_server

from cli.members import Member, Mistaken, members_of
from cli.refuse import MISTAKEN, refuse
from orchestrator.adapters.redis_shards import RedisShards
from orchestrator.control_policy import Hardware
from orchestrator.controller import Controller, ServicePolicy
from orchestrator.counting import steady_unix_s
from orchestrator.federation import Federation, MemberSource
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
        typer.Option(
            envvar="TERCET_REDIS_URL",
            help="Redis of the stack; of several shards each, in order. Of a named cluster NAME=URL.",
        ),
    ],
    cluster: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KUBECONFIG",
            help="One of several clusters that are controlled as one; once for each. None: one cluster.",
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TERCET_NAMESPACE",
            help="Where the pools are; `default` by default. Of a named cluster NAME=NAMESPACE.",
        ),
    ] = None,
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
    try:
        members = members_of(cluster or (), redis_url, namespace or ("default",), kubeconfig)
    except Mistaken as error:
        refuse(str(error), MISTAKEN)
    if published and cluster:
        refuse("each cluster publishes its own policies; leave out --published", MISTAKEN)
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
    whole = _cluster(members, tuple(services), next(iter(levels)), karpenter=karpenter)
    configure_logs(process="controller")
    asyncio.run(_run(whole, members, services, followed, metrics_port, act=act))


def _cluster(
    members: Sequence[Member], services: Sequence[str], levels: Sequence[str], *, karpenter: bool
) -> Cluster:
    from orchestrator.adapters.kube import (  # heavy, and nothing else needs it
        KubeCluster,
        NoCluster,
        client_of,
    )

    found: dict[str, Cluster] = {}
    for each in members:
        try:
            client = client_of(each.kubeconfig)
        except NoCluster as error:
            refuse(str(error), MISTAKEN)
        found[each.name] = KubeCluster(client, each.namespace, services, levels, karpenter=karpenter)
    return Federation(found) if members[0].name else found[""]


async def _run(
    cluster: Cluster,
    members: Sequence[Member],
    services: dict[str, ServicePolicy],
    followed: dict[str, PolicyCopy],
    metrics_port: int,
    *,
    act: bool,
) -> None:
    shards = [RedisShards(each.redis_urls) for each in members]
    sources = [
        MemberSource(member.name, ledger) if member.name else ledger
        for member, own in zip(members, shards, strict=True)
        for ledger in own.ledgers()
    ]
    names = [each.name for each in members if each.name]
    controller = Controller(cluster, sources, services, steady_unix_s(), clusters=names, acts=act)
    if metrics_port:
        start_http_server(metrics_port, registry=controller.metrics.registry)
    await look(shards[0], followed)
    following = asyncio.ensure_future(follow(shards[0], followed))
    task = asyncio.ensure_future(controller.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass
    finally:
        following.cancel()
        for each in shards:
            await each.aclose()
