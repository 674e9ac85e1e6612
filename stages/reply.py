"""What a replica answers: the events of a reply stream, as JSON.

An event belongs to one attempt of one hop; the stream entry names it by its `Job.key`.
"""

from typing import Literal

import msgspec

from stages.types import EmbeddingRef, KVRef, TokenChunk

FailureKind = Literal["invalid", "blob", "full", "cancelled", "deadline", "refused", "diverged"]
LossCause = Literal["crash", "killed", "lost"]


class Encoded(msgspec.Struct, frozen=True, tag="encoded"):
    """Encode is done."""

    ref: EmbeddingRef


class Prefilled(msgspec.Struct, frozen=True, tag="prefilled"):
    """Prefill is done."""

    ref: KVRef


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Decode got further; done when `chunk.finish` is set."""

    chunk: TokenChunk


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The attempt ended without a result.

    Attributes:
        uri: The blob that was missing, for kind "blob".
    """

    kind: FailureKind
    message: str
    uri: str = ""


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """The replica was fenced while it held the attempt.

    Attributes:
        cause: "crash" if its process ended by its own fault, "killed" if somebody ended it, "lost"
            if only its lease is known to have lapsed.
    """

    cause: LossCause


Reply = Encoded | Prefilled | Tokens | Failed | Lost

encode_reply = msgspec.json.Encoder().encode
decode_reply = msgspec.json.Decoder(Reply).decode


def is_terminal(reply: Reply) -> bool:
    """Whether the attempt is over with this reply."""
    return not (isinstance(reply, Tokens) and reply.chunk.finish is None)
