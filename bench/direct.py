"""A gateway without HTTP: the product's fleet and pipeline in the benchmark's own event loop."""

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.core.kv import KvSizes
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape
from orchestrator.fleet import Fleet
from orchestrator.hops import Request
from orchestrator.metrics import Metrics
from orchestrator.pipeline import Pipeline, Work
from orchestrator.policy import Policy
from stages.blobs import BlobStore
from stages.front import Turn
from stages.models import front
from stages.types import MediaItem, Modality, Sampling

_PATIENCE_S = 60.0


class DirectGateway:
    """Serves requests of one image through the stages, in process."""

    def __init__(self, fleet: Fleet, blobs: BlobStore, model: str, image: bytes) -> None:
        self._fleet = fleet
        self._blobs = blobs
        self._front = front(model)
        self._image = image
        self._numbers = itertools.count()

    async def serve(self, max_tokens: int = 1) -> None:
        """Serve one request: encode, prefill, decode."""
        now_s = time.monotonic()
        request = Request(
            request_id=f"direct{next(self._numbers)}",
            reply_to=self._fleet.gateway,
            model=self._front.name,
            arrival_s=now_s,
            due_s=now_s + 2.0,
            deadline_s=now_s + _PATIENCE_S,
            deadline_unix_s=time.time() + _PATIENCE_S,
        )
        try:
            pipeline = Pipeline(
                self._fleet.hops, self._fleet.prefixes, request, self._work(request.request_id, max_tokens)
            )
            async for _ in pipeline.run():
                pass
        finally:
            self._fleet.ended(request)

    def _work(self, owner: str, max_tokens: int) -> Work:
        handle = self._blobs.put(self._image, owner=owner, ttl_s=2 * _PATIENCE_S)
        tokens = self._front.media_tokens(Modality.IMAGE, 16, 16, 1)
        prompt = self._front.prompt([Turn(role="user", text="hello", media=(0,))], [handle.sha256], [tokens])
        shape = MediaShape(modality=Modality.IMAGE, tokens=tokens)
        item = MediaItem(
            modality=Modality.IMAGE,
            blob=handle,
            content_hash=hashlib.sha256(self._image).hexdigest(),
            width_px=16,
            height_px=16,
            frames=1,
            tokens=tokens,
        )
        tagged = tag(len(prompt.token_ids) - tokens, [shape], kappa=1, max_tokens=max_tokens)
        return Work(
            tag=tagged,
            hops=tagged.stages,
            prompt=prompt,
            items=[item],
            sampling=Sampling(max_tokens=max_tokens),
            restore=lambda _: handle,
            kv=KvSizes(token_bytes=self._front.kv_bytes_per_token),
        )


@asynccontextmanager
async def direct_gateway(
    redis_url: str, blobs: BlobStore, policy: Policy, image: bytes
) -> AsyncIterator[DirectGateway]:
    """Join a running system as one more gateway."""
    client = connect(redis_url)
    fleet = Fleet(
        f"bench.{time.time_ns():x}",
        RedisLedger(client),
        lambda: policy,
        release=lambda request_id, _pull_urls: blobs.release(request_id),
        report=dict,
        observer=Metrics(),
    )
    await fleet.join()
    keeping = asyncio.create_task(fleet.run())
    try:
        yield DirectGateway(fleet, blobs, policy.model.name, image)
    finally:
        await asyncio.sleep(0.2)  # the last requests are closed in the background
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        await fleet.leave()
        await client.aclose()
