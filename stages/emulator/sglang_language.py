"""How an SGLang server in `--language-only` has media encoded: it calls encoders, of which it keeps a list.

As in SGLang 0.5.23, a request's media of one modality are spread evenly over the encoders on the list when it
comes, each called once; the answers come back by another way (`embeddings.py`), and the first call that fails
ends the request.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec

from stages.emulator.chat import Work
from stages.emulator.embeddings import Part, receive_parts
from stages.emulator.errors import EngineError
from stages.emulator.media import MEDIA_PARTS, Json, Medium
from stages.emulator.sglang_encoder import PARTS_OF

_ENCODE_S = 180.0
"""For so long it waits for an encoder."""

_KINDS = {MEDIA_PARTS[kind]: name for name, kind in PARTS_OF.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one encoder is asked for one request.

    Attributes:
        encoder: Its address.
        req_id: Of this part of the request.
        modality: Of its items, in SGLang's words.
        indices: Of the items among the request's media.
        items: Their URLs.
    """

    encoder: str
    req_id: str
    modality: str
    indices: Sequence[int]
    items: Sequence[str]


class Encoders:
    """The encoders that one server calls, and what it waits for from them.

    Attributes:
        urls: The list.
        port: Of the small server that keeps it.
        awaiting: Requests whose media are being encoded.
    """

    def __init__(self, host: str) -> None:
        self.urls: list[str] = []
        self.port = 0
        self.awaiting = 0
        self._host = host
        self._receiver = ""
        self._parts: dict[str, asyncio.Future[list[str]]] = {}
        self._turn = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen for embeddings, and be able to call, until the block ends."""
        timeout = aiohttp.ClientTimeout(total=_ENCODE_S)
        server = await receive_parts(self._host, self._take)
        self._receiver = f"{self._host}:{server.sockets[0].getsockname()[1]}"
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as self._session:
                yield
        finally:
            server.close()

    async def encoded(self, rid: str, messages: Iterable[Json], work: Work) -> Work:
        """Return work whose media are what encoders made of them.

        Raises:
            EngineError: There is no encoder, one failed, or the request was aborted.
        """
        if not work.media:
            return work
        if not self.urls:
            # A real one takes the media itself, by weights that some models leave out in this mode.
            told = "Contract: media need an encoder, and none is registered."
            raise EngineError(told, 503, "ServiceUnavailable")
        self._turn += 1
        orders = list(_orders(rid, list(_urls(messages)), work.media, self.urls, self._turn))
        self.awaiting += 1
        try:
            return replace(work, media=await self._made(orders, work.media))
        finally:
            self.awaiting -= 1

    def abort(self, rid: str) -> None:
        """End a request whose media are being encoded."""
        for req_id, part in self._parts.items():
            if req_id.rpartition("_local_part_")[0] == rid and not part.done():
                part.set_exception(EngineError("Aborted by user"))

    async def _made(self, orders: Sequence[Order], media: Sequence[Medium]) -> tuple[Medium, ...]:
        made = list(media)
        try:
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(self._part(order, len(orders), n)) for n, order in enumerate(orders)
                ]
        except* EngineError as errors:
            raise errors.exceptions[0] from None
        for order, part in zip(orders, parts, strict=True):
            for index, content in zip(order.indices, part.result(), strict=True):
                made[index] = replace(media[index], content=content)
        return tuple(made)

    async def _part(self, order: Order, num_parts: int, part_idx: int) -> list[str]:
        """Return the contents of the media that one encoder was given."""
        part: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._parts[order.req_id] = part
        receive = {
            "req_id": order.req_id,
            "receive_count": 1,
            "receive_url": self._receiver,
            "modality": order.modality,
        }
        encode = {
            "mm_items": order.items,
            "modality": order.modality,
            "req_id": order.req_id,
            "num_parts": num_parts,
            "part_idx": part_idx,
            "encoder_url": order.encoder,
            "prefill_host": self._host,
            "embedding_port": None,
            "time_stats_json": None,
        }
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._post(order.encoder + "/scheduler_receive_url", receive))
                group.create_task(self._post(order.encoder + "/encode", encode))
                return await part
        except* EngineError as errors:
            raise errors.exceptions[0] from None
        finally:
            del self._parts[order.req_id]

    async def _post(self, url: str, body: Json) -> None:
        try:
            async with self._session.post(url, json=body) as response:
                if response.status != 200:
                    told = msgspec.json.decode(await response.read(), type=dict[str, Any])
                    raise EngineError(str(told.get("message")), response.status, "InternalServerError")
        except TimeoutError:
            raise EngineError("Encoder HTTP request timeout", 504, "InternalServerError") from None
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            raise EngineError(str(error), 502, "InternalServerError") from None

    def _take(self, part: Part) -> None:
        awaited = self._parts.get(part.req_id)
        if awaited and not awaited.done():
            awaited.set_result(part.contents)


def _urls(messages: Iterable[Json]) -> Iterable[str]:
    """Yield the addresses of media in order; audio that is inlined gets one, as SGLang gives it."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part["type"]
            if kind == "input_audio":
                yield f"data:audio/{part[kind].get('format', 'wav')};base64,{part[kind]['data']}"
            elif kind in MEDIA_PARTS:
                yield part[kind]["url"] if isinstance(part[kind], dict) else part[kind]


def _orders(
    rid: str, urls: Sequence[str], media: Sequence[Medium], encoders: Sequence[str], turn: int
) -> Iterable[Order]:
    """Yield what each encoder is asked; `turn` says which one is first."""
    part = 0
    for modality, name in _KINDS.items():
        indices = [index for index, medium in enumerate(media) if medium.modality == modality]
        each, more = divmod(len(indices), len(encoders))
        for n in range(min(len(encoders), len(indices))):
            given = indices[n * each + min(n, more) : (n + 1) * each + min(n + 1, more)]
            yield Order(
                encoder=encoders[(turn + n) % len(encoders)],
                req_id=f"{rid}_local_part_{part}",
                modality=name,
                indices=given,
                items=[urls[index] for index in given],
            )
            part += 1
