"""A chat request as SGLang 0.5.23 reads it: with the room in which prefill and decode meet."""

from dataclasses import replace

import msgspec

from stages.emulator.chat import ChatBody, Work, read_as, work_of
from stages.emulator.config import EmulatorConfig, Role
from stages.emulator.errors import EngineError
from stages.emulator.media import MediaCache
from stages.emulator.transfer import KvOrder, KvSource


class SglangBody(ChatBody, kw_only=True):
    """The fields that an emulated engine looks at."""

    bootstrap_host: str | None = None
    bootstrap_port: int | None = None
    bootstrap_room: int | None = None
    rid: str | None = None


class AbortBody(msgspec.Struct):
    """Body of /abort_request."""

    rid: str


_body = msgspec.json.Decoder(SglangBody)


def read_sglang(data: bytes) -> SglangBody:
    """Return a request's body.

    Raises:
        EngineError: It is no JSON, or a field has the wrong type.
    """
    return read_as(_body, data)


def sglang_work(body: SglangBody, config: EmulatorConfig, cache: MediaCache) -> Work:
    """Return what an engine is to do for a request; one that prefills makes a single token.

    Raises:
        EngineError: As SGLang refuses it, or because the request breaks the contract between servers.
    """
    if body.kv_transfer_params or body.ec_transfer_params:
        raise EngineError("Contract: SGLang has no kv_transfer_params and no ec_transfer_params.")
    work = work_of(body, config, cache)
    if not config.role.moves_kv:
        return work
    room = body.bootstrap_room
    if room is None:
        raise EngineError("Invalid request: Disaggregated request received without bootstrap room id.")
    if not 0 <= room < 1 << 63:
        raise EngineError(f"Contract: bootstrap_room is a 63-bit number, not {room}.")
    if config.role is Role.PREFILL:
        return replace(work, max_tokens=1, min_tokens=0, kv=KvOrder(keep=True, room=str(room)))
    if not body.bootstrap_host or not body.bootstrap_port:
        raise EngineError("Contract: decode is told bootstrap_host and bootstrap_port.")
    source = KvSource(
        host=body.bootstrap_host,
        port=body.bootstrap_port,
        engine_id="",
        request_id=str(room),
        tokens=len(work.prompt),
        coming=True,
    )
    return replace(work, kv=KvOrder(source=source))
