"""SGLang servers that prefill and decode for one another, and servers that do all stages.

Both are sent a request at the same time, by decode's worker, with the same three fields by which they find
each other; prefill answers once decode has taken the KV cache.

If one half fails, the other is stopped. By itself it would wait for minutes: prefill tells decode of some of
its failures only, and not of an encoder's.

Encoders are called by the servers that prefill, which are told here which there are.

Sources: SGLang 0.5.23's router and `disaggregation/`.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
import msgspec

from stages.adapters.bodies import Json, restored, stored, unnamed
from stages.adapters.calls import CHAT
from stages.adapters.decode import Question
from stages.adapters.engine import ServerEngine
from stages.adapters.events import judge
from stages.adapters.load import ServerLoad, read_sglang_load
from stages.adapters.plain import PlainDecode
from stages.adapters.server import EngineServer
from stages.adapters.sglang_encoders import EncoderList, listed
from stages.adapters.watch import ASK_S, ServerUnfit, Watch
from stages.blobs import BlobStore
from stages.engines import Emit, EngineRefused, StageError
from stages.http_url import http_url
from stages.limits import EngineLimits
from stages.types import DecodeJob, EngineLoad, FinishReason, KVRef, PrefillJob

log = logging.getLogger(__name__)

OLDEST = (0, 5, 23)
"""Whose interface this was written for."""

_ROOMS = 63
"""Bits of the number by which the two halves of a request know each other."""


ABORT = "/abort_request"


class Meeting(msgspec.Struct):
    """Where decode finds prefill, and by which name each server knows the request.

    Attributes:
        fields: Of both bodies.
        prefill_url: Of the server that prefills, for decode's worker.
        list_url: Of the list of encoders that it keeps, if it needs one for this request, else empty.
    """

    fields: Json
    prefill_url: str
    list_url: str = ""


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

    def __init__(self, server: EngineServer, blobs: BlobStore, limits: EngineLimits) -> None:
        """Wait until the server is healthy.

        Raises:
            ServerUnfit: It did not become so, does not prefill for others, or has no list of encoders where
                those of its service are to be called.
        """
        super().__init__(server, blobs, limits)
        facts = self._watch.facts
        if facts.get("disaggregation_mode") != "prefill":
            raise ServerUnfit(f"{server.url} was not started with --disaggregation-mode prefill")
        if server.encoders_called and not facts.get("language_only"):
            raise ServerUnfit(f"{server.url} was not started with --language-only")
        self._port = int(facts["disaggregation_bootstrap_port"])
        self._list_port = int(facts.get("encoder_bootstrap_port") or 0)
        if server.encoders_called and not self._list_port:
            raise ServerUnfit(f"{server.url} does not say where its list of encoders is")
        self._encoders = EncoderList(self._calls, self._list_at(server.url))

    def meet(self, urls: Iterable[str]) -> None:
        """See `MeetsEncoders`."""
        self._encoders.become(urls)

    def load(self) -> EngineLoad:
        """Return the load, with the encoders that the server may call."""
        return replace(super().load(), encoders=tuple(sorted(self._encoders.called)))

    def prefill(self, job: PrefillJob) -> KVRef:
        """Return where decode is to meet this server; its worker sends the chat to both.

        Raises:
            EngineRefused: There is no encoder for its media. The server would encode them itself if its model
                has kept the weights, and fail if not.
        """
        assert job.chat
        calls_encoders = bool(job.chat.items) and self._server.encoders_called
        if calls_encoders and not self._encoders.ready:
            raise EngineRefused("it has no encoder to call yet")
        peer_url = self._server.peer_url
        room = secrets.randbits(_ROOMS)
        fields = {
            "bootstrap_host": urlsplit(peer_url).hostname,
            "bootstrap_port": self._port,
            "bootstrap_room": room,
            "rid": f"{job.request_id}-{room:x}",
        }
        meeting = Meeting(fields, peer_url, self._list_at(peer_url) if calls_encoders else "")
        return KVRef(blob=stored(meeting, self._ttl_s), tokens=0, first_token=-1)

    def _list_at(self, url: str) -> str:
        """Return where the list of encoders is, beside the server at an address."""
        return http_url(urlsplit(url).hostname or "", self._list_port)


class SglangDecode(PlainDecode):
    """`DecodeEngine` by a server in `--disaggregation-mode decode`, or by one that does all stages."""

    watches = SglangWatch

    @asynccontextmanager
    async def opened(self, job: DecodeJob, question: Question) -> AsyncIterator[aiohttp.ClientResponse]:
        """See `ServedDecode`; prefill is asked beside, and if it fails so does this."""
        asked = super().opened(job, question)
        if job.kv is None:
            async with asked as response:
                yield response
            return
        meeting = self._meeting(job.kv)
        await self._check_encoders(meeting)
        try:
            async with asyncio.TaskGroup() as both:
                prefill = both.create_task(self._prefilled(job, meeting.prefill_url + CHAT, question))
                async with asked as response:
                    yield response
                # Has it not answered, its connection closes, which SGLang takes for an abort: harmless once
                # decode has the KV cache, and wanted if decode has ended without it.
                prefill.cancel()
        except* Exception as errors:
            raise errors.exceptions[0] from None

    async def _check_encoders(self, meeting: Meeting) -> None:
        """See that prefill has an encoder to call: its list may have become empty since the prefill hop.

        Raises:
            EngineRefused: It has none, or does not say. See `SglangPrefill.prefill`.
        """
        if meeting.list_url and not await listed(self._calls, meeting.list_url):
            raise EngineRefused(f"{meeting.prefill_url} has no encoder to call any more")

    async def _prefilled(self, job: DecodeJob, url: str, question: Question) -> None:
        judge(await self._calls.answer(url, question.body, job.request_id), question.read)

    def decode(self, job: DecodeJob, emit: Emit) -> FinishReason:
        """See `ServedDecode`; if nothing comes of it, prefill is told."""
        try:
            return super().decode(job, emit)
        except Exception:
            if job.kv:
                self._calls.begin(job, self._abort_prefill(job, self._meeting(job.kv)))
            raise

    def asked(self, job: DecodeJob, client: Json) -> Json:
        """Return the client's body, with where prefill is to be found."""
        return unnamed(client) | (self._meeting(job.kv).fields if job.kv else {})

    def _meeting(self, kv: KVRef) -> Meeting:
        return msgspec.convert(restored(kv.blob, self._blobs.get), Meeting)

    async def _abort_prefill(self, job: DecodeJob, meeting: Meeting) -> None:
        """Have prefill stop: for minutes it would keep a KV cache that nobody fetches."""
        body = msgspec.json.encode({"rid": meeting.fields["rid"]})
        try:
            await self._calls.answer(meeting.prefill_url + ABORT, body, job.request_id)
        except StageError as error:
            log.warning("prefill of %s was not stopped: %s", job.request_id, error)
