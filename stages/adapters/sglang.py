"""SGLang servers that prefill and decode for one another, and servers that do all stages.

Both are sent a request at the same time, by decode's worker, with the same three fields by which they find
each other; prefill answers once decode has taken the KV cache.

If one half fails, the other is stopped. By itself it would wait for minutes: prefill tells decode of some of
its failures only, and not of an encoder's.

Encoders are called by the servers that prefill, which are told here which there are. A server that was
started to prefill and decodes now calls them too, and one that was started to decode encodes itself.

Sources: SGLang 0.5.23's router and `disaggregation/`.
"""

import asyncio
import logging
import secrets
from collections import Counter
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
from stages.adapters.sglang_encoders import EncoderList, encoder_list, listed
from stages.adapters.sglang_role import take_role
from stages.adapters.watch import ASK_S, ServerUnfit, Watch
from stages.blobs import BlobStore
from stages.engines import Emit, EngineRefused, StageError
from stages.limits import EngineLimits
from stages.types import DecodeJob, EngineLoad, FinishReason, KVRef, PrefillJob, Stage

log = logging.getLogger(__name__)

OLDEST = (0, 5, 23)
"""Whose interface this was written for."""

_ROOMS = 63
"""Bits of the number by which the two halves of a request know each other."""


ABORT = "/abort_request"
_RID = "rid"
_NO_ENCODER = "it has no encoder to call yet"


class Meeting(msgspec.Struct):
    """Where decode finds prefill, and by which name each server knows the request.

    Attributes:
        fields: Of both bodies, but for `rid`, which is prefill's name for its half.
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
    """`PrefillEngine` by a server in `--disaggregation-mode prefill`, or one that has changed to it."""

    watches = SglangWatch

    def __init__(self, server: EngineServer, blobs: BlobStore, limits: EngineLimits) -> None:
        """Wait until the server is healthy.

        Raises:
            ServerUnfit: It did not become so, does not prefill for others, or has no list of encoders where
                those of its service are to be called.
            RoleRefused: It decodes, and goes on so.
        """
        super().__init__(server, blobs, limits)
        facts = self._watch.facts
        take_role(self._calls, server, facts, Stage.PREFILL)
        self._encoders = encoder_list(self._calls, server, facts)
        started_to_prefill = facts.get("disaggregation_mode") == Stage.PREFILL
        if server.encoders_called and started_to_prefill and not self._encoders:
            raise ServerUnfit(f"{server.url} was not started with --language-only")
        self._port = int(facts["disaggregation_bootstrap_port"])
        self.meets = frozenset({Stage.ENCODE} if self._encoders else ())

    def meet(self, stage: Stage, urls: Iterable[str]) -> None:
        """See `MeetsOthers`."""
        assert self._encoders
        self._encoders.become(urls)

    def load(self) -> EngineLoad:
        """Return the load, with the encoders that the server may call."""
        return replace(super().load(), encoders=_called(self._encoders))

    def prefill(self, job: PrefillJob) -> KVRef:
        """Return where decode is to meet this server; its worker sends the chat to both.

        Raises:
            EngineRefused: There is no encoder for its media. The server would encode them itself if its model
                has kept the weights, and fail if not.
        """
        assert job.chat
        encoders = self._encoders if job.chat.items else None
        if encoders and not encoders.ready:
            raise EngineRefused(_NO_ENCODER)
        peer_url = self._server.peer_url
        room = secrets.randbits(_ROOMS)
        fields = {
            "bootstrap_host": urlsplit(peer_url).hostname,
            "bootstrap_port": self._port,
            "bootstrap_room": room,
            _RID: f"{job.request_id}-{room:x}",
        }
        meeting = Meeting(fields, peer_url, encoders.peer_url if encoders else "")
        return KVRef(blob=stored(meeting, self._ttl_s), tokens=0, first_token=-1)


class SglangDecode(PlainDecode):
    """`DecodeEngine` by a server in `--disaggregation-mode decode`, or by one that does all stages."""

    watches = SglangWatch

    def __init__(self, server: EngineServer, blobs: BlobStore, limits: EngineLimits) -> None:
        """Wait until the server is healthy.

        Raises:
            ServerUnfit: See `ServerEngine`.
            RoleRefused: It prefills for others, and goes on so.
        """
        super().__init__(server, blobs, limits)
        if server.switches_roles:
            take_role(self._calls, server, self._watch.facts, Stage.DECODE)
        self._encoders = encoder_list(self._calls, server, self._watch.facts)
        self._prefills: frozenset[str] = frozenset()
        self._halves: Counter[str] = Counter()
        called = {Stage.ENCODE: bool(self._encoders), Stage.PREFILL: server.switches_roles}
        self.meets = frozenset(stage for stage, calls in called.items() if calls)

    def meet(self, stage: Stage, urls: Iterable[str]) -> None:
        """See `MeetsOthers`."""
        if stage is Stage.PREFILL:
            self._prefills = frozenset(urls)
        elif self._encoders:
            self._encoders.become(urls)

    def load(self) -> EngineLoad:
        """Return the load, with those whom the server and its worker may call."""
        prefills = tuple(sorted(self._halves.copy()))  # which another thread changes
        return replace(super().load(), encoders=_called(self._encoders), prefills=prefills)

    @asynccontextmanager
    async def opened(self, job: DecodeJob, question: Question) -> AsyncIterator[aiohttp.ClientResponse]:
        """See `ServedDecode`; prefill is asked beside, and if it fails so does this."""
        asked = super().opened(job, question)
        if job.kv is None:
            async with asked as response:
                yield response
            return
        meeting = self._meeting(job.kv)
        await self._check_encoders(job, meeting)
        self._check_prefills(meeting.prefill_url)
        try:
            async with asyncio.TaskGroup() as both:
                prefill = both.create_task(self._prefilled(job, meeting, question))
                async with asked as response:
                    yield response
                # Has it not answered, its connection closes, which SGLang takes for an abort: harmless once
                # decode has the KV cache, and wanted if decode has ended without it.
                prefill.cancel()
        except* Exception as errors:
            raise errors.exceptions[0] from None

    def _check_prefills(self, url: str) -> None:
        """See that a server still prefills: two halves that both decode would wait for each other.

        Raises:
            EngineRefused: It does not, or soon will not.
        """
        if self._server.switches_roles and url not in self._prefills:
            raise EngineRefused(f"{url} takes no more work as one that prefills")

    async def _check_encoders(self, job: DecodeJob, meeting: Meeting) -> None:
        """See that there is an encoder to call: prefill's list may have become empty since the prefill hop.

        Raises:
            EngineRefused: There is none, or prefill does not say. See `SglangPrefill.prefill`.
        """
        if self._encoders and job.chat and job.chat.items and not self._encoders.ready:
            raise EngineRefused(_NO_ENCODER)
        if meeting.list_url and not await listed(self._calls, meeting.list_url):
            raise EngineRefused(f"{meeting.prefill_url} has no encoder to call any more")

    async def _prefilled(self, job: DecodeJob, meeting: Meeting, question: Question) -> None:
        # Decode's half has another name, by chance: encoders know by it for whom they work.
        body = question.body[:-1] + b"," + msgspec.json.encode({_RID: meeting.fields[_RID]})[1:]
        url = meeting.prefill_url
        self._halves[url] += 1
        try:
            judge(await self._calls.answer(url + CHAT, body, job.request_id), question.read)
        finally:
            self._halves[url] -= 1
            if not self._halves[url]:
                del self._halves[url]

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
        if job.kv is None:
            return unnamed(client)
        body = unnamed(client) | self._meeting(job.kv).fields
        del body[_RID]
        return body

    def _meeting(self, kv: KVRef) -> Meeting:
        return msgspec.convert(restored(kv.blob, self._blobs.get), Meeting)

    async def _abort_prefill(self, job: DecodeJob, meeting: Meeting) -> None:
        """Have prefill stop: for minutes it would keep a KV cache that nobody fetches."""
        body = msgspec.json.encode({_RID: meeting.fields[_RID]})
        try:
            await self._calls.answer(meeting.prefill_url + ABORT, body, job.request_id)
        except StageError as error:
            log.warning("prefill of %s was not stopped: %s", job.request_id, error)


def _called(encoders: EncoderList | None) -> tuple[str, ...]:
    return tuple(sorted(encoders.called)) if encoders else ()
