"""`messages` → turns of text and the media between them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.api_errors import invalid_request, shown
from orchestrator.api_fields import Json, as_object, as_text, one_of, required, unsupported, wrong_type
from stages.front import Turn
from stages.types import Modality

MAX_PARTS = 4_096
"""Messages and content parts together, at most: what is validated in one go, some tens of ms of work."""

ROLES = ("system", "developer", "user", "assistant")
DETAILS = ("auto", "low", "high")

_PARTS: Mapping[str, Modality] = {
    "text": Modality.TEXT,
    "image_url": Modality.IMAGE,
    "video_url": Modality.VIDEO,
    "audio_url": Modality.AUDIO,
    "input_audio": Modality.AUDIO,
}

# Clients send an assistant's message back as they got it, with nulls and empty lists.
_REFUSED_IN_MESSAGE = ("tool_calls", "function_call", "audio", "tool_call_id")
_KNOWN_IN_MESSAGE = frozenset({"role", "content", "name", "refusal", "annotations", *_REFUSED_IN_MESSAGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSource:
    """One media part of a request, not yet read.

    Attributes:
        url: `data:`, `http:` or `https:` address; inline audio becomes a data: URL.
        param: Path of the address in the request, for error messages.
        detail: OpenAI's hint for images: auto, low or high. Reference encoders have one resolution.
        uuid: The client's own name for the item. Never a cache key here: the content's hash is, so
            that no client can plant an embedding under another's name.
    """

    modality: Modality
    url: str = field(repr=False)
    param: str
    detail: str = "auto"
    uuid: str | None = None


class MessageReader:
    """Collects turns, media and unknown fields while walking `messages`.

    Attributes:
        turns: One per message.
        media: What the turns' indices point to.
        ignored: Paths of fields that nobody knows.
    """

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.media: list[MediaSource] = []
        self.ignored: list[str] = []
        self._seen = 0

    def read(self, messages: list[Json]) -> None:
        """Walk all messages.

        Raises:
            ApiError: 400 with the path of the first thing that is wrong.
        """
        if not messages:
            raise invalid_request(
                "messages is empty; send at least one message", param="messages", code="empty_array"
            )
        for index, message in enumerate(messages):
            self.count()
            self.message(message, f"messages[{index}]")

    def message(self, message: Json, path: str) -> None:
        """Take one message."""
        fields = as_object(message, path)
        role = one_of(required(fields, "role", path), f"{path}.role", ROLES)
        for name in _REFUSED_IN_MESSAGE:
            if fields.get(name):
                raise unsupported(f"{path}.{name}", fields[name])
        content = required(fields, "content", path)
        first_media = len(self.media)
        text = content if isinstance(content, str) else self.parts(content, f"{path}.content")
        self.turns.append(Turn(role=role, text=text, media=tuple(range(first_media, len(self.media)))))
        if len(fields) > 2:
            self._ignore(fields, _KNOWN_IN_MESSAGE, path)

    def parts(self, parts: Json, path: str) -> str:
        """Take a list of content parts; return their text."""
        if not isinstance(parts, list):
            raise wrong_type(path, "a string or a list of content parts", parts)
        if not parts:
            raise invalid_request(
                f"{path} is empty; send at least one content part", param=path, code="empty_array"
            )
        texts = [self.part(part, f"{path}[{index}]") for index, part in enumerate(parts)]
        return "\n".join(text for text in texts if text is not None)

    def part(self, part: Json, path: str) -> str | None:
        """Take one content part; return its text, None for media."""
        self.count()
        fields = as_object(part, path)
        kind = one_of(required(fields, "type", path), f"{path}.type", _PARTS)
        value = required(fields, kind, path)
        if kind == "text":
            self._ignore(fields, ("type", "text"), path)
            return as_text(value, f"{path}.text")
        self._ignore(fields, ("type", kind, "uuid"), path)
        self.media.append(self._source(kind, value, fields.get("uuid"), path))
        return None

    def _source(self, kind: str, value: Json, uuid: Json, path: str) -> MediaSource:
        modality, inner = _PARTS[kind], f"{path}.{kind}"
        name = None if uuid is None else as_text(uuid, f"{path}.uuid")
        if kind == "input_audio":
            url, param = _inline_audio(as_object(value, inner), inner)
            return MediaSource(modality=modality, url=url, param=param, uuid=name)
        if isinstance(value, str):
            return MediaSource(modality=modality, url=_address(value, inner), param=inner, uuid=name)
        fields = as_object(value, inner)
        url = _address(required(fields, "url", inner), f"{inner}.url")
        detail = one_of(fields.get("detail") or "auto", f"{inner}.detail", DETAILS)
        self._ignore(fields, ("url", "detail"), inner)
        return MediaSource(modality=modality, url=url, param=f"{inner}.url", detail=detail, uuid=name)

    def _ignore(self, fields: Mapping[str, Json], known: Collection[str], path: str) -> None:
        self.ignored.extend(f"{path}.{name}" for name in fields if name not in known)

    def count(self) -> None:
        """Count one more message or part.

        Raises:
            ApiError: 400: that makes too many.
        """
        self._seen += 1
        if self._seen > MAX_PARTS:
            message = f"more than {MAX_PARTS:,} messages and content parts"
            raise invalid_request(message, param="messages", code="too_many_parts")


def _address(value: Json, path: str) -> str:
    url = as_text(value, path)
    # Schemes are case-insensitive; a copy of the first letters, not of a 5 MB data: URL.
    if not url[:8].lower().startswith(("data:", "http://", "https://")):
        message = f"{path}: expected a data:, http:// or https:// URL, got {shown(url)}"
        raise invalid_request(message, param=path, code="invalid_url")
    return url


def _inline_audio(fields: Mapping[str, Json], path: str) -> tuple[str, str]:
    data = as_text(required(fields, "data", path), f"{path}.data")
    kind = one_of(required(fields, "format", path), f"{path}.format", ("wav", "mp3", "flac", "opus", "pcm16"))
    return f"data:audio/{kind};base64,{data}", f"{path}.data"
