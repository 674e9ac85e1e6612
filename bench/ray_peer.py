"""The same three-stage chain as Ray Serve deployments, called through their handles."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.load import Send

_PAYLOAD = "x" * 300


@asynccontextmanager
async def opened() -> AsyncIterator[Send]:
    """Start Ray on this machine and yield how to send a request; one replica per stage."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default its workers would yield to all others
    import ray
    from ray import serve

    class Stage:
        async def __call__(self, job: str) -> str:
            return job

    deploy = serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning",
        object_store_memory=100_000_000,
    )  # fmt: skip
    try:
        serve.start(proxy_location="Disabled")
        handles = [
            serve.run(deploy(Stage).options(name=name).bind(), name=name, route_prefix=None)
            for name in ("encode", "prefill", "decode")
        ]

        async def send() -> None:
            job = _PAYLOAD
            for handle in handles:
                job = await handle.remote(job)

        yield send
    finally:
        serve.shutdown()
        ray.shutdown()
