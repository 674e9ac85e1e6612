"""What all stages of engines that are servers share: the server, the calls to it, its watch."""

from typing import ClassVar

import msgspec

from stages.adapters.bodies import Json
from stages.adapters.calls import CHAT, Calls
from stages.adapters.server import EngineServer
from stages.adapters.watch import Watch
from stages.blobs import BlobStore
from stages.engines import EngineRefused
from stages.limits import EngineLimits
from stages.types import EngineLoad, Job


class ServerEngine:
    """`Engine` by a server.

    Attributes:
        watches: How it is asked how it does.
    """

    watches: ClassVar[type[Watch]] = Watch

    def __init__(self, server: EngineServer, blobs: BlobStore, limits: EngineLimits) -> None:
        """Wait until the server is healthy.

        Raises:
            ServerUnfit: It did not become so, or is one that cannot do this.
        """
        self._server = server
        self._blobs = blobs
        self._ttl_s = limits.blob_ttl_s
        self._calls = Calls(server)
        self._watch = self.watches(server, self._calls)

    @property
    def failed(self) -> BaseException | None:
        """See `Engine`."""
        return self._watch.gone

    def cancel(self, key: str) -> None:
        """See `Engine`."""
        self._calls.cancel(key)

    def pause(self, key: str, paused: bool) -> None:
        """See `Engine`."""
        self._calls.pause(key, paused)

    def load(self) -> EngineLoad:
        """Return the load at the server's last answer; a server that is silent counts as one long step."""
        seen, total = self._watch.load, self._watch.load.kv_tokens * self._server.token_bytes
        return EngineLoad(
            batch_size=seen.running,
            free_kv_bytes=round(total * (1.0 - seen.kv_usage)),
            total_kv_bytes=total,
            cache_queries=seen.cache_queries,
            cache_hits=seen.cache_hits,
            step_age_s=self._watch.silence_s,
            called_s=seen.busy_s,
        )

    def close(self) -> None:
        """See `Engine`."""
        self._watch.close()
        self._calls.close()

    def _answer(self, job: Job, body: Json, request_id: str, path: str = CHAT) -> Json:
        # Written and read on the job's own thread: megabytes of media would hold up the streams of others.
        data = msgspec.json.encode(body)
        return json_object(self._calls.run(job, lambda: self._calls.answer(path, data, request_id)))


def json_object(answer: bytes) -> Json:
    """Return an answer as JSON.

    Raises:
        EngineRefused: It is none.
    """
    try:
        return msgspec.json.decode(answer, type=Json)
    except msgspec.MsgspecError as error:
        raise EngineRefused(f"the server's answer is no JSON object: {error}") from None
