"""Bare Celery's three hops: three workers, three tasks that do nothing, the same Redis."""

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
from celery import Celery, chain

from bench.load import Send
from bench.processes import Processes

STAGES = ("encode", "prefill", "decode")
_PAYLOAD = "x" * 300

app = Celery("peer", broker=os.environ.get("BENCH_REDIS", "").replace("unix://", "redis+socket://"))
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)


@app.task(name="peer.hop")
def hop(job: str, number: int, answer_to: str) -> None:
    """Do nothing; say so if asked."""
    if answer_to:
        _client().rpush(answer_to, f"{job} {number}")


def _client() -> redis.Redis:
    global _redis
    if _redis is None:
        _redis = redis.Redis.from_url(os.environ["BENCH_REDIS"])
    return _redis


_redis: redis.Redis | None = None


def start_workers(processes: Processes, redis_url: str) -> list[str]:
    """Start one worker per stage; returns the names of the processes."""
    names = [f"celery-{stage}" for stage in STAGES]
    for name, stage in zip(names, STAGES, strict=True):
        command = [sys.executable, "-m", "celery", "-A", "bench.celery_peer", "worker", "-Q", f"peer.{stage}"]
        command += [
            "-n",
            f"{stage}@peer",
            "-l",
            "warning",
            "-P",
            os.environ.get("BENCH_CELERY_POOL", "threads"),
        ]
        command += [
            "-c",
            os.environ.get("BENCH_CELERY_CONCURRENCY", "8"),
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
        processes.start(name, command, {"BENCH_REDIS": redis_url})
    return names


@asynccontextmanager
async def opened(redis_url: str, kind: str) -> AsyncIterator[Send]:
    """Yield how to send a request through three hops.

    Args:
        redis_url: Of the broker.
        kind: `chain`: each worker publishes the next hop, the last one answers. `driver`: every hop answers,
            and this process publishes the next one.
    """
    answers = f"peer.answers.{os.getpid()}"
    client = redis.asyncio.Redis.from_url(redis_url)
    waiting: dict[str, asyncio.Future[None]] = {}
    numbers = itertools.count()

    async def one_hop(job: str, number: int) -> None:
        future = waiting[f"{job} {number}"] = asyncio.get_running_loop().create_future()
        hop.apply_async((job, number, answers), queue=f"peer.{STAGES[number]}")
        await future

    async def driver() -> None:
        job = f"{next(numbers)} {_PAYLOAD}"
        for number in range(3):
            await one_hop(job, number)

    async def chained() -> None:
        job = f"{next(numbers)} {_PAYLOAD}"
        future = waiting[f"{job} 2"] = asyncio.get_running_loop().create_future()
        hops = (hop.si(job, n, answers if n == 2 else "").set(queue=f"peer.{STAGES[n]}") for n in range(3))
        chain(*hops).apply_async()
        await future

    async def listen() -> None:
        while True:
            item = await client.blpop([answers], timeout=1)
            done: list[Any] = [item[1]] if item else []
            done += (await client.lpop(answers, 64) or []) if item else []
            for name in done:
                waiting.pop(name.decode()).set_result(None)

    listening = asyncio.create_task(listen())
    try:
        yield {"driver": driver, "chain": chained}[kind]
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        await client.aclose()
