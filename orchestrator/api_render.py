"""Answers as OpenAI's clients expect them: one JSON body, or server-sent events."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from orchestrator.api_errors import ApiError, error_body
from stages.types import FinishReason

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a finished request.

    Attributes:
        prompt_tokens: Positions of the prompt, media included.
        completion_tokens: Generated tokens, the end-of-sequence token not counted.
        cached_tokens: Of the prompt, those that a prefix cache supplied.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """What all parts of one answer have in common.

    Attributes:
        completion_id: `chatcmpl-…`.
        created_unix_s: Wall-clock second of acceptance.
        fingerprint: Names the weights and code that answered, or None.
    """

    completion_id: str
    model: str
    created_unix_s: int
    fingerprint: str | None = None


def completion_body(head: AnswerHead, text: str, finish: FinishReason, usage: Usage) -> bytes:
    """Return a `chat.completion` object."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": finish,
    }
    return _encode(_head(head, "chat.completion") | {"choices": [choice], "usage": _usage(usage)})


class EventStream:
    """Renders one streamed answer; every method returns whole events.

    What all deltas share is encoded once, so that a delta costs one string's encoding.

    Args:
        include_usage: `stream_options.include_usage`; every chunk then has a `usage` field, which
            is null in all but the last.
    """

    def __init__(self, head: AnswerHead, *, include_usage: bool) -> None:
        self._head = head
        self._usage: dict[str, object] = {"usage": None} if include_usage else {}
        self._before, self._after = self._chunk({"content": ""}, None).split(b'{"content":""}')

    def first(self) -> bytes:
        """Return the chunk that opens the answer."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def delta(self, text: str) -> bytes:
        """Return a chunk with more text."""
        return b"".join((self._before, b'{"content":', _encode(text), b"}", self._after))

    def last(self, finish: FinishReason) -> bytes:
        """Return the chunk that ends the answer's text."""
        return self._chunk({}, finish)

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk with no choices that `include_usage` asks for; it follows `last`."""
        return _event(_head(self._head, "chat.completion.chunk") | {"choices": [], "usage": _usage(usage)})

    def _chunk(self, delta: dict[str, str], finish: FinishReason | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(_head(self._head, "chat.completion.chunk") | {"choices": [choice]} | self._usage)


def error_event(error: ApiError) -> bytes:
    """Return an error in the midst of a stream; clients raise it, and nothing follows but DONE."""
    return b"data: %b\n\n" % error_body(error)


def models_body(models: Iterable[str], created_unix_s: int) -> bytes:
    """Return the answer of `GET /v1/models`, by name."""
    fields = {"object": "model", "created": created_unix_s, "owned_by": "tercet"}
    return _encode({"object": "list", "data": [{"id": model, **fields} for model in sorted(models)]})


def _head(head: AnswerHead, kind: str) -> dict[str, object]:
    return {
        "id": head.completion_id,
        "object": kind,
        "created": head.created_unix_s,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
    }


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % _encode(value)
