"""SGLang servers that prefill and decode for one another, and servers that do all stages.

Both are sent a request at the same time, with the same three fields by which they find each other; prefill
answers once decode has taken the KV cache. Encoders are called by the servers that prefill, not from here.
Sources: SGLang 0.5.23's router and `disaggregation/`.
"""

import logging
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from stages.adapters.bodies import Json, chat_body, restored, stored, unnamed
from stages.adapters.calls import CHAT
from stages.adapters.engine import ServerEngine
from stages.adapters.load import ServerLoad, read_sglang_load
from stages.adapters.plain import PlainDecode
from stages.adapters.watch import ASK_S, Watch
from stages.engines import StageError
from stages.types import DecodeJob, KVRef, PrefillJob

log = logging.getLogger(__name__)

OLDEST = (0, 5, 23)
"""Whose interface this was written for."""

_ROOMS = 63
"""Bits of the number by which the two halves of a request know each other."""


class SglangWatch(Watch):
    """Asks an SGLang server."""

    names = "SGLang"
    oldest = OLDEST
    version_path = "/server_info"

    def ask(self) -> ServerLoad:
        """Return the server's load now; it has to be started with `--enable-metrics`."""
        return read_sglang_load(self.calls.wait(self.calls.get("/metrics", ASK_S)).decode())


class SglangPrefill(ServerEngine):
    """`PrefillEngine` by a server in `--disaggregation-mode prefill`."""

    watches = SglangWatch

    def prefill(self, job: PrefillJob) -> KVRef:
        """Send the chat and return at once: the server answers when decode has been there.

        The reference holds where decode finds it. Nobody says for how long; a prefill that fails, or that
        nobody comes for, is ended by the server, and decode is told by it.
        """
        assert job.chat
        server = self._server
        meeting = {
            "bootstrap_host": server.bootstrap_host or urlsplit(server.url).hostname,
            "bootstrap_port": server.bootstrap_port,
            "bootstrap_room": secrets.randbits(_ROOMS),
        }
        body = unnamed(chat_body(job.chat, self._blobs)) | meeting
        self._calls.begin(job, self._prefilled(job, msgspec.json.encode(body)))
        return KVRef(blob=stored(meeting, self._ttl_s), tokens=0, first_token=-1)

    async def _prefilled(self, job: PrefillJob, body: bytes) -> None:
        try:
            async with self._calls.open(CHAT, body, job.request_id) as response:
                async for _ in response.content.iter_any():
                    pass
        except (StageError, RuntimeError) as error:
            log.warning("prefill of %s failed: %s", job.request_id, error)


class SglangDecode(PlainDecode):
    """`DecodeEngine` by a server in `--disaggregation-mode decode`, or by one that does all stages."""

    watches = SglangWatch

    def asked(self, job: DecodeJob, client: Json) -> Json:
        """Return the client's body, with where prefill is to be found."""
        meeting: Mapping[str, Any] = restored(job.kv.blob, self._blobs.get) if job.kv else {}
        return unnamed(client) | dict(meeting)
