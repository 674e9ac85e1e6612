"""`tercet status`: what runs, and how it is doing."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import redis
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cli.child import CRASH_LOOP, STEADY_S
from cli.paths import state_home
from cli.refuse import UNSERVED, refuse
from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.metrics import kv_usage
from orchestrator.ports import RegisteredReplica, Snapshot
from stages.stopping import told_to_stop
from stages.types import Stage

WATCH_S = 1.0


def status(
    port: Annotated[int, typer.Option(help="Port of the system to look at.")] = 8080,
    state: Annotated[Path | None, typer.Option(help="Its state folder, if not the default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second until Ctrl-C; with --json, one line each.")
    ] = False,
) -> None:
    """Show replicas, queues, rates and hit rates of a running system."""
    folder = state or state_home(port)
    if not watch:
        report = _report(folder)
        if as_json:
            typer.echo(json.dumps(report, indent=2))
        else:
            Console().print(_table(report))
        return
    with told_to_stop() as told:
        (_watch_json if as_json else _watch_table)(folder, told)


def _watch_json(folder: Path, told: threading.Event) -> None:
    while not told.is_set():
        typer.echo(json.dumps(_report(folder)))
        told.wait(WATCH_S)


def _watch_table(folder: Path, told: threading.Event) -> None:
    with Live(_table(_report(folder)), refresh_per_second=4) as live:
        while not told.wait(WATCH_S):
            live.update(_table(_report(folder)))


def _report(folder: Path) -> dict[str, Any]:
    try:
        supervisor = json.loads((folder / "supervisor.json").read_text())
        snapshot = asyncio.run(_snapshot(supervisor["redis_url"]))
    except (OSError, redis.RedisError) as error:
        ports = "".join(f" --port {port}" for port in _running_ports())
        next_step = "start it with `tercet up`" + (f", or look at what runs:{ports}" if ports else "")
        refuse(f"nothing runs with state in {folder} ({error}); {next_step}", UNSERVED)
    registered = {entry.replica.replica_id: entry for entry in snapshot.replicas}
    workers = [p for p in supervisor["processes"] if p["kind"] in tuple(Stage)]
    others = [p for p in supervisor["processes"] if p["kind"] not in tuple(Stage)]
    return {
        "url": supervisor["url"],
        "policy": supervisor["policy"],
        "replicas": [_replica(process, registered.get(process["boot_id"])) for process in workers],
        "processes": others,
        "gateways": [{"id": id_, **report} for id_, report in sorted(snapshot.gateways.items())],
    }


def _running_ports() -> list[str]:
    """Return the ports of the systems that run with their state in the usual place."""
    return sorted(folder.name for folder in state_home(0).parent.glob("*") if _runs(folder))


def _runs(folder: Path) -> bool:
    try:
        os.kill(json.loads((folder / "supervisor.json").read_text())["pid"], 0)
    except (OSError, ValueError, KeyError):
        return False
    return True


async def _snapshot(redis_url: str) -> Snapshot:
    client = connect(redis_url, patient=False)
    try:
        return await RedisLedger(client).snapshot()
    finally:
        await client.aclose()


def _replica(process: dict[str, Any], entry: RegisteredReplica | None) -> dict[str, Any]:
    row = {
        "id": process["boot_id"],
        "stage": process["kind"],
        "pid": process["pid"],
        "state": process["state"],
        "restarts": process["restarts"],
        "last_exit": process["last_exit"],
    }
    young = time.time() - process["started_unix_s"] < STEADY_S
    if process["quick_deaths"] >= CRASH_LOOP and (young or process["state"] == "waiting"):
        return row | {"state": "crash-loop", "queue_depth": 0}
    if entry is None:
        return row | {"state": "starting" if row["state"] == "running" else row["state"], "queue_depth": 0}
    if entry.replica.draining:
        row["state"] = "draining"
    load, replica = entry.load, entry.replica
    queries = load.get("cache_queries", 0)
    return row | {
        "stage": replica.stage,
        "queue_depth": max(0, replica.in_flight - load.get("batch_size", 0)),
        "in_flight": replica.in_flight,
        "slots": replica.slots,
        "batch_size": load.get("batch_size", 0),
        "pending_tokens": replica.pending_tokens,
        "tokens_per_s": round(replica.rate_tokens_per_s, 1),
        "done_tokens": load.get("done_tokens", 0),
        "kv_cache_usage": round(kv_usage(entry), 4),
        "cache_hit_rate": round(load.get("cache_hits", 0) / queries, 4) if queries else None,
    }


def _table(report: dict[str, Any]) -> Group:
    """Draw what fits into 80 columns; the JSON has the rest."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("process")
    for heading in ("pid", "state", "restarts", "queued", "slots", "tokens/s", "KV used", "cache hits"):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    for row in report["processes"]:
        table.add_row(row["name"], *_cells(row, "pid", "state", "restarts"))
    for row in report["replicas"]:
        slots = f"{row['in_flight']}/{row['slots']}" if "slots" in row else ""
        name = row["id"].partition(".")[0]
        work = _cells(row, "tokens_per_s", "kv_cache_usage", "cache_hit_rate")
        table.add_row(name, *_cells(row, "pid", "state", "restarts", "queue_depth"), slots, *work)
    return Group(f"{report['url']}  {report['policy']}", table, *_remarks(report))


def _cells(row: dict[str, Any], *keys: str) -> list[str]:
    return ["" if row.get(key) is None else str(row[key]) for key in keys]


def _remarks(report: dict[str, Any]) -> Iterator[str]:
    for gateway in report["gateways"]:
        waiting = ", ".join(f"{count} for {stage}" for stage, count in gateway.get("waiting", {}).items())
        if waiting:
            yield f"waiting in {gateway['id'].partition('.')[0]}: {waiting}"
        for name in ("policy_error", "policy_notice"):
            if name in gateway:
                yield f"{name}: {gateway[name]}"
