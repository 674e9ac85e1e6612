"""Answers to `/inference/v1/generate` as vLLM 0.32 writes them, whole and as events."""

import time
from typing import Any

import msgspec

from stages.emulator.answers import DONE, usage_of
from stages.emulator.sequence import Sequence
from stages.emulator.tokens import TokensBody

_encode = msgspec.json.Encoder().encode


def whole_tokens(sequence: Sequence, body: TokensBody, model: str) -> bytes:
    """Return the answer to a request without a stream."""
    answer = {
        "request_id": sequence.request_id,
        "model": model,
        "created": int(time.time()),
        "usage": usage_of(sequence, len(sequence.tokens)),
        "prompt_token_ids": sequence.work.prompt if body.return_token_ids else None,
        "kv_transfer_params": sequence.kv_params,
        "ec_transfer_params": sequence.ec_params,
        "output_mode": body.output_mode,
        "choices": [_choice(sequence, body, sequence.tokens)],
    }
    return _encode(answer)


class TokenEvents:
    """The events of one answer."""

    def __init__(self, sequence: Sequence, body: TokensBody) -> None:
        self._sequence = sequence
        self._body = body
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._said = 0

    def first(self) -> bytes:
        """Return nothing: the first event has the first tokens."""
        return b""

    def more(self) -> bytes:
        """Return the event that says all that was not said yet; empty if there is nothing."""
        sequence = self._sequence
        tokens = sequence.tokens[self._said :]
        if not tokens and sequence.finish is None:
            return b""
        event: dict[str, Any] = {"request_id": sequence.request_id, "usage": None}
        if self._body.return_token_ids and not self._said:
            event["prompt_token_ids"] = sequence.work.prompt
        self._said += len(tokens)
        event["output_mode"] = self._body.output_mode
        event["choices"] = [_choice(sequence, self._body, tokens)]
        return b"data: " + _encode(event) + b"\n\n"

    def last(self) -> bytes:
        """Return what follows the answer."""
        if not self._usage:
            return DONE
        event = {"request_id": self._sequence.request_id, "usage": usage_of(self._sequence, self._said)}
        rest = {"output_mode": self._body.output_mode, "choices": []}
        return b"data: " + _encode(event | rest) + b"\n\n" + DONE


def _choice(sequence: Sequence, body: TokensBody, tokens: list[int]) -> dict[str, Any]:
    choice = {
        "index": 0,
        "finish_reason": sequence.finish,
        "stop_reason": sequence.stop_reason,
        "token_ids": tokens,
    }
    text = {"text": sequence.take_text()} if body.output_mode == "text" else {}
    return choice | text | {"logprobs": None}
