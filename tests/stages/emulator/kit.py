"""What the emulator's tests share: chats, images, and the hops of a request through three engines."""

import base64
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

from stages.emulator.config import Role
from tests.fakes.emulator import Emulated

MODEL = "emulated"
REMOTE_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def png(width: int = 112, height: int = 112, shade: int = 0) -> bytes:
    """Return a grey image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([shade]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def image(shade: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a content part."""
    url = "data:image/png;base64," + base64.b64encode(png(shade=shade)).decode()
    return {"type": "image_url", "image_url": {"url": url}, **fields}


def chat(*parts: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a body; parts are texts or content parts."""
    content = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 24,
        "return_token_ids": True,
    }
    return body | fields


def encoded(engine: Emulated, body: dict[str, Any]) -> dict[str, Any]:
    """Have a chat's media encoded as vLLM's proxy does; return the merged parameters."""
    merged: dict[str, Any] = {}
    for part in body["messages"][0]["content"]:
        if part["type"] != "text":
            alone = {"model": MODEL, "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
            merged |= engine.chat(alone).json()["ec_transfer_params"]
    return merged


def prefilled(engine: Emulated, body: dict[str, Any], ec_params: dict[str, Any] | None = None) -> Any:
    """Have a chat prefilled; return the parameters for decode."""
    asked = body | {"max_tokens": 1, "stream": False, "kv_transfer_params": REMOTE_DECODE}
    asked.pop("stream_options", None)
    if ec_params:
        asked["ec_transfer_params"] = ec_params
    answer = engine.chat(asked)
    assert answer.status_code == 200, answer.text
    return answer.json()["kv_transfer_params"]


def through_three(engines: dict[Role, Emulated], body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of encode, prefill and decode engines to a body without a stream."""
    params = prefilled(engines[Role.PREFILL], body, encoded(engines[Role.ENCODE], body))
    answer = engines[Role.DECODE].chat(body | {"kv_transfer_params": params})
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def nothing_left(engine: Emulated) -> bool:
    """Whether an engine holds nothing for anybody."""
    state = engine.state()
    held = ("running", "waiting", "fetching", "awaiting", "blocks_used", "leases")
    return not any(state.get(name) for name in held)


def until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    """Poll until something is so."""
    give_up_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_s, "it never became so"
        time.sleep(0.01)
