"""A chat request for engines that read chats: checked as far as Tercet acts on it, kept as it came."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from orchestrator.api import ChatRequest, load_body, max_tokens_of
from orchestrator.api_errors import model_not_found
from orchestrator.api_fields import (
    Json,
    as_list,
    as_object,
    as_text,
    flag,
    integer,
    number,
    required,
    unsupported,
)
from orchestrator.api_messages import MessageReader
from stages.adapters.bodies import MEDIA, MEDIA_PARTS, media_parts, put_address
from stages.front import Turn

_ASIDE = ("tools", "functions", "response_format", "guided_json", "structured_outputs")
"""Fields that a chat template, or the engine, makes part of the prompt."""


class ServedMessageReader(MessageReader):
    """Takes any message and part as it comes; what is no medium counts as text."""

    def message(self, message: Json, path: str) -> None:
        """Take one message."""
        fields = as_object(message, path)
        role = as_text(required(fields, "role", path), f"{path}.role")
        content = fields.get("content") or ""
        first_media = len(self.media)
        text = content if isinstance(content, str) else self.parts(content, f"{path}.content")
        if calls := fields.get("tool_calls"):
            text += msgspec.json.encode(calls).decode()
        self.turns.append(Turn(role=role, text=text, media=tuple(range(first_media, len(self.media)))))

    def part(self, part: Json, path: str) -> str | None:
        """Take one content part; return its text, None for media."""
        fields = as_object(part, path)
        kind = as_text(required(fields, "type", path), f"{path}.type")
        if kind in MEDIA_PARTS or kind == "text":
            return super().part(part, path)
        self.count()
        return msgspec.json.encode(part).decode()


def parse_served_chat(body: bytes, *, known_models: Collection[str], default_seed: int) -> ChatRequest:
    """Read what routing needs of a `POST /v1/chat/completions` body; the engine refuses what else is wrong.

    Args:
        body: The body as it came.
        known_models: Names that are served.
        default_seed: Given to a request without a seed that does not ask for the likeliest tokens, so that a
            decode that is lost can be run again.

    Raises:
        ApiError: 400, or 404 for an unknown model; nothing else, whatever the bytes.
    """
    fields = as_object(load_body(body), "")
    model = as_text(required(fields, "model"), "model")
    if model not in known_models:
        raise model_not_found(model, known_models)
    if fields.get("n") not in (None, 1):
        raise unsupported("n", fields["n"])
    messages = ServedMessageReader()
    messages.read(as_list(required(fields, "messages"), "messages"))
    temperature = number(fields, "temperature", 0.0, 2.0, default=1.0)
    seed = integer(fields, "seed", -(2**63), 2**63 - 1)
    if seed is None and temperature:
        fields["seed"] = default_seed
    return ChatRequest(
        model=model,
        turns=(*_aside(fields), *messages.turns),
        media=tuple(messages.media),
        stream=flag(fields, "stream"),
        include_usage=False,
        max_tokens=max_tokens_of(fields),
        temperature=temperature,
        top_p=1.0,
        seed=default_seed if seed is None else seed % 2**63,
        stop=(),
        ignored=(),
        body=fields,
    )


def stored_body(body: Mapping[str, Json], content_hashes: Sequence[str]) -> bytes:
    """Return a request's body with each medium's number in place of its address.

    Args:
        body: Changed on the way.
        content_hashes: Of the media in order; each becomes its part's `uuid`.
    """
    for index, (part, kind) in enumerate(media_parts(body["messages"])):
        put_address(part, kind, f"{MEDIA}{index}")
        part["uuid"] = content_hashes[index]
    return msgspec.json.encode(body)


def _aside(fields: Mapping[str, Json]) -> list[Turn]:
    said = {name: fields[name] for name in _ASIDE if fields.get(name)}
    return [Turn(role="system", text=msgspec.json.encode(said).decode())] if said else []
