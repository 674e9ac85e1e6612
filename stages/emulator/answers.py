"""Answers to chat requests as vLLM 0.32 writes them, whole and as events."""

import time
from typing import Any

import msgspec

from stages.emulator.chat import ChatBody
from stages.emulator.sequence import Sequence

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def usage_of(sequence: Sequence, completion_tokens: int) -> dict[str, int]:
    """Return what a request has cost when so many tokens were said."""
    prompt_tokens = len(sequence.work.prompt)
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def fingerprint(version: str) -> str:
    """Return what vLLM says it is in its answers."""
    return f"vllm-{version}-emulated"


def whole_answer(sequence: Sequence, body: ChatBody, model: str, version: str) -> bytes:
    """Return the answer to a request without a stream."""
    ids = bool(body.return_token_ids)
    message = {
        "role": "assistant",
        "content": sequence.take_text(),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": sequence.finish,
        "stop_reason": sequence.stop_reason,
        "token_ids": sequence.tokens if ids else None,
        "routed_experts": None,
    }
    usage = usage_of(sequence, len(sequence.tokens)) | {
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    return _encode(
        {
            "id": sequence.request_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": fingerprint(version),
            "usage": usage,
            "prompt_logprobs": None,
            "prompt_token_ids": sequence.work.prompt if ids else None,
            "prompt_text": None,
            "kv_transfer_params": sequence.kv_params,
            "ec_transfer_params": sequence.ec_params,
            "metrics": None,
        }
    )


class Events:
    """The events of one answer."""

    def __init__(self, sequence: Sequence, body: ChatBody, model: str, version: str) -> None:
        self._sequence = sequence
        self._ids = bool(body.return_token_ids)
        self._version = version
        options = body.stream_options
        self._usage = bool(options and options.include_usage)
        self._usage_always = bool(self._usage and options and options.continuous_usage_stats)
        self._said = 0
        head = {
            "id": sequence.request_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['

    def first(self) -> bytes:
        """Return the event that opens the answer."""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        rest: dict[str, Any] = self._continuous()
        rest["prompt_token_ids"] = self._sequence.work.prompt if self._ids else None
        rest["prompt_text"] = None
        return self._event(_encode(choice), rest)

    def more(self) -> bytes:
        """Return the event that says all that was not said yet; empty if there is nothing."""
        sequence = self._sequence
        tokens = sequence.tokens[self._said :]
        if not tokens and sequence.finish is None:
            return b""
        self._said += len(tokens)
        text = _encode(sequence.take_text())
        ids = _encode(tokens) if self._ids else b"null"
        ended = b"null"
        if sequence.finish:
            ended = _encode(sequence.finish) + b',"stop_reason":' + _encode(sequence.stop_reason)
        rest = self._continuous()
        if sequence.finish and not self._usage:
            rest["system_fingerprint"] = fingerprint(self._version)
        return self._event(self._choice(text, ended, ids), rest)

    def last(self) -> bytes:
        """Return what follows the answer."""
        if not self._usage:
            return DONE
        rest = {
            "usage": usage_of(self._sequence, self._said),
            "system_fingerprint": fingerprint(self._version),
        }
        return self._event(b"", rest) + DONE

    def _choice(self, text: bytes, ended: bytes, ids: bytes) -> bytes:
        return b'{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":%b,"token_ids":%b}' % (
            text,
            ended,
            ids,
        )

    def _event(self, choice: bytes, rest: dict[str, Any]) -> bytes:
        tail = b"]," + _encode(rest)[1:] if rest else b"]}"
        return self._head + choice + tail + b"\n\n"

    def _continuous(self) -> dict[str, Any]:
        if not self._usage_always:
            return {}
        return {"usage": usage_of(self._sequence, self._said) | {"completion_tokens_details": None}}
