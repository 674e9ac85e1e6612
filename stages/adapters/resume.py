"""Going on behind what a client has been sent, by vLLM's scale-out endpoints: tokens in, tokens out.

The server renders the chat to the tokens of its prompt, and those that the client has are put behind them:
what was lost is gone on with, where a second try that starts over would have to say the same again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import msgspec

from stages.adapters.bodies import Json
from stages.adapters.calls import Calls
from stages.adapters.events import Piece, piece
from stages.engines import EngineRefused

RENDER = "/v1/chat/completions/render"
GENERATE = "/inference/v1/generate"

_ASK_S = 2.0
_MAX_TOKENS = 16
"""vLLM's own default, which `RENDER` leaves out; `GENERATE` would then go on for as long as there is room."""
_NOT_ALLOWED = 405

_LENGTHS = ("max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "stop_token_ids")
_CHOICES = ("temperature", "top_p", "top_k", "min_p", "seed", "n")
_FRAMES = ("messages", "model", "user", "stream", "stream_options", "return_token_ids")
_PLAIN = frozenset((*_FRAMES, *_CHOICES, *_LENGTHS))
"""Fields that mean the same wherever an answer begins, unlike penalties, grammars, stop strings, parsers."""


def can_resume(calls: Calls) -> bool:
    """Return whether a server has the endpoints: vLLM's do with `--enable-scale-out`."""
    try:
        calls.wait(calls.get(GENERATE, _ASK_S))
    except aiohttp.ClientResponseError as error:
        return error.status == _NOT_ALLOWED
    except (aiohttp.ClientError, OSError):
        return False
    return True


def is_plain(client: Json) -> bool:
    """Return whether a client's body asks for nothing that begins anew with another prompt."""
    return client.keys() <= _PLAIN


def behind(rendered: Json, generated: Sequence[int]) -> Json | None:
    """Return the request that goes on behind generated tokens; None if there is nothing to go on with.

    Args:
        rendered: What `RENDER` says of the client's body.
        generated: Tokens that the client has.
    """
    sampling = rendered["sampling_params"]
    left = sampling.get("max_tokens", _MAX_TOKENS) - len(generated)
    if left < 1 or rendered.get("reasoning_parser_kwargs"):
        return None
    fewest = max(0, (sampling.get("min_tokens") or 0) - len(generated))
    return rendered | {
        "token_ids": [*rendered["token_ids"], *generated],
        "sampling_params": sampling | {"max_tokens": left, "min_tokens": fewest},
    }


def keeping(body: Json) -> Json:
    """Return a request that ends with its first token, for a server that only prefills."""
    sampling = body["sampling_params"] | {"max_tokens": 1, "min_tokens": 0}
    return body | {"sampling_params": sampling, "stream": False, "stream_options": None}


def event_reader(
    request_id: str, model: str, created: int, said: int, *, keep_ids: bool
) -> Callable[[bytes, bytes], Piece]:
    """Return what makes the events of `GENERATE` those of the chat that they go on with.

    Args:
        request_id: As the server was told; the chat's id follows from it.
        model: Name under which the client asked.
        created: Unix second.
        said: Tokens that the client had; they count in what usage says of the completion.
        keep_ids: Whether the client is to see ids of tokens.
    """
    head = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
    }

    def read(raw: bytes, json: bytes) -> Piece:
        event = msgspec.json.encode(_as_chat(json, head, said))
        return piece(b"data: " + event + b"\n\n", event, keep_ids=keep_ids)

    return read


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Json | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def _as_chat(json: bytes, head: Json, said: int) -> Json:
    try:
        event = _decode(json)
    except msgspec.MsgspecError as error:
        raise EngineRefused(f"the server's answer cannot be read: {error}") from None
    chat = head | {"choices": [_choice(choice) for choice in event.choices]}
    if event.usage:
        chat["usage"] = _usage(event.usage, said)
    return chat | ({"error": event.error} if event.error else {})


def _choice(choice: _Choice) -> Json:
    finish = choice.finish_reason
    ended: Json = {"stop_reason": choice.stop_reason} if finish else {}
    delta = {"content": choice.text}
    return (
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        | ended
        | {"token_ids": choice.token_ids}
    )


def _usage(usage: Json, said: int) -> Json:
    """Return usage as it would be had the answer never been lost."""
    return usage | {
        "prompt_tokens": usage["prompt_tokens"] - said,
        "completion_tokens": usage["completion_tokens"] + said,
    }
