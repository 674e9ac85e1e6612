"""Answers to chat requests as SGLang 0.5.23 writes them, whole and as events."""

import time
from typing import Any

import msgspec

from stages.emulator.answers import DONE, usage_of
from stages.emulator.errors import EngineError
from stages.emulator.sequence import Sequence
from stages.emulator.sglang_chat import SglangBody

_encode = msgspec.json.Encoder().encode


def sglang_error(error: EngineError) -> dict[str, Any]:
    """Return an error as SGLang says it."""
    return {
        "object": "error",
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.status,
    }


def sglang_answer(sequence: Sequence, model: str) -> bytes:
    """Return the answer to a request without a stream."""
    message = {
        "role": "assistant",
        "content": sequence.take_text(),
        "reasoning_content": None,
        "tool_calls": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None} | _ended(sequence)
    return _encode(
        {
            "id": sequence.request_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": usage_of(sequence, len(sequence.tokens)) | {"prompt_tokens_details": None},
            "metadata": {"weight_version": "default"},
        }
    )


class SglangEvents:
    """The events of one answer."""

    def __init__(self, sequence: Sequence, body: SglangBody, model: str) -> None:
        self._sequence = sequence
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._said = 0
        self._head = {
            "id": sequence.request_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def first(self) -> bytes:
        """Return the event that opens the answer."""
        return self._event({"role": "assistant", "content": ""})

    def more(self) -> bytes:
        """Return the event that says all that was not said yet; empty if there is nothing to be read."""
        self._said = len(self._sequence.tokens)
        text = self._sequence.take_text()
        return self._event({"role": None, "content": text}) if text else b""

    def last(self) -> bytes:
        """Return why the answer ended, and what follows."""
        events = self._event({"role": None, "content": None}, _ended(self._sequence))
        if self._usage:
            usage = {"choices": [], "usage": usage_of(self._sequence, self._said)}
            events += b"data: " + _encode(self._head | usage) + b"\n\n"
        return events + DONE

    def _event(self, delta: dict[str, Any], ended: dict[str, Any] | None = None) -> bytes:
        delta["reasoning_content"] = None
        choice = {"index": 0, "delta": delta, "logprobs": None} | (ended or _GOING_ON)
        return b"data: " + _encode(self._head | {"choices": [choice], "usage": None}) + b"\n\n"


_GOING_ON = {"finish_reason": None, "matched_stop": None}


def _ended(sequence: Sequence) -> dict[str, Any]:
    return {"finish_reason": sequence.finish, "matched_stop": sequence.stop_reason}
