"""What an SGLang server in `--encoder-only` answers to those that prefill (0.5.23, `zmq_to_scheduler`)."""

import asyncio
from collections import OrderedDict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stages.emulator.chat import Work
from stages.emulator.embeddings import Part, send_part
from stages.emulator.engine import Engine
from stages.emulator.errors import EngineError
from stages.emulator.faults import FaultBoard
from stages.emulator.json_answer import json_answer
from stages.emulator.media import Json, Medium, read_medium

PARTS_OF = {"IMAGE": "image_url", "VIDEO": "video_url", "AUDIO": "audio_url"}
"""Modalities as SGLang names them to its encoders, and the content parts that bring them."""

_REMEMBERED = 4096


class Encoding:
    """The questions that servers which prefill ask an encoder."""

    def __init__(self, engine: Engine, board: FaultBoard) -> None:
        self._engine = engine
        self._board = board
        self._receivers: OrderedDict[str, asyncio.Future[str]] = OrderedDict()

    async def encode(self, request: Request) -> Response:
        """`/encode`: encode some media and bring them to whoever is said to receive them."""
        asked = _object(await request.body())
        req_id = asked.get("req_id")
        try:
            await self._suffer()
            part = Part(str(req_id), await self._encoded(asked))
            async with asyncio.timeout(self._engine.config.handshake_s):
                await send_part(await self._receiver(part.req_id), part)
        except EngineError as error:
            return json_answer({"status": "error", "message": error.message, "req_id": req_id}, error.status)
        except OSError as error:  # a time-out too
            return json_answer({"status": "error", "message": str(error), "req_id": req_id}, 500)
        finally:
            self._receivers.pop(str(req_id), None)
        return json_answer(None)

    async def receive_url(self, request: Request) -> Response:
        """`/scheduler_receive_url`: hear where a part's embeddings are to go, before or after it comes."""
        asked = _object(await request.body())
        receiver = self._receiver(asked["req_id"])
        if not receiver.done():
            receiver.set_result(asked["receive_url"])
        return json_answer(None)

    def _receiver(self, req_id: str) -> "asyncio.Future[str]":
        receiver = self._receivers.setdefault(req_id, asyncio.get_running_loop().create_future())
        if len(self._receivers) > _REMEMBERED:
            self._receivers.popitem(last=False)
        return receiver

    async def _suffer(self) -> None:
        if self._board.faults.hang:
            await asyncio.Event().wait()
        if self._board.strikes():
            raise EngineError("Injected fault", self._board.faults.error_status)

    async def _encoded(self, asked: Json) -> list[str]:
        _check(asked)
        media = tuple(self._medium(asked["modality"], item, n) for n, item in enumerate(asked["mm_items"]))
        sequence = self._engine.submit(asked["req_id"], Work(prompt=[], media=media, max_tokens=1))
        try:
            await sequence.ended()
        finally:
            self._engine.abort(sequence)
        return [medium.content for medium in media]

    def _medium(self, modality: str, item: Any, index: int) -> Medium:
        kind = PARTS_OF[modality]
        url = item["url"] if isinstance(item, dict) else item
        return read_medium({kind: {"url": url}}, kind, index, self._engine.config, self._engine.media)


def _object(data: bytes) -> Json:
    return msgspec.json.decode(data, type=Json)


def _check(asked: Json) -> None:
    """Refuse in SGLang's words what is no request to encode.

    Raises:
        EngineError: See there.
    """
    num_parts, part_idx = asked.get("num_parts"), asked.get("part_idx")
    if not isinstance(asked.get("req_id"), str) or not asked["req_id"]:
        raise EngineError("missing or invalid req_id")
    if asked.get("modality") not in PARTS_OF:
        raise EngineError(f"unsupported modality: {asked.get('modality')}")
    if not asked.get("mm_items"):
        raise EngineError("missing or empty mm_items")
    if type(num_parts) is not int or num_parts <= 0:
        raise EngineError("num_parts must be a positive integer")
    if type(part_idx) is not int or not 0 <= part_idx < num_parts:
        raise EngineError(f"part_idx must be in [0, {num_parts})")
    if asked.get("embedding_port") is not None:
        raise EngineError("Contract: this encoder brings embeddings to whom /scheduler_receive_url names.")
