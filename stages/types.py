"""The nouns that cross a stage boundary.

A request is `MediaItem → EmbeddingRef → KVRef → tokens`. Each job type needs the noun of the stage
before it, so a hop out of order does not type-check. All of them travel as JSON: they hold handles,
never tensors.
"""

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """One of the three stages of a multimodal request."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"


def stage_of(hop: str) -> Stage:
    """Return the stage that a hop belongs to; see `Job.hop`."""
    return Stage(hop.partition(".")[0])


class Modality(StrEnum):
    """What a content part carries."""

    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class FinishReason(StrEnum):
    """Why a decode ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobHandle:
    """Where bytes are and how to know that they are the right ones.

    Attributes:
        uri: `shm://<store>/<name>` on the writer's host, or `inline:<base64>` for small blobs.
        sha256: Hex digest of the bytes.
        size_bytes: Length of the bytes.
        ttl_s: Seconds after which the store may sweep an unreferenced blob.
        pull_url: HTTP address that serves ranges of the blob to other hosts; empty if inlined.
    """

    uri: str
    sha256: str
    size_bytes: int
    ttl_s: float
    pull_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaItem:
    """One image, one sampled video frame sequence or one audio clip of a request.

    Attributes:
        content_hash: Hex sha256 of the encoded bytes; the key of the embedding cache.
        width_px: Width read from the header, before any pixel is decoded.
        height_px: Height read from the header.
        frames: Sampled frames to encode, 1 for a still image.
        tokens: Embedding rows that the model's encoder makes of it.
    """

    modality: Modality
    blob: BlobHandle
    content_hash: str
    width_px: int
    height_px: int
    frames: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRef:
    """Soft tokens of one media item: float32, shape [tokens, dim], C order.

    Of an engine with a connector of its own, `blob` is the JSON by which they are found and `dim` is 0.

    Attributes:
        cached: Whether the embedding cache supplied them.
    """

    blob: BlobHandle
    content_hash: str
    tokens: int
    dim: int
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KVRef:
    """KV cache of a prompt and the token that prefill sampled behind it.

    Of an engine with a connector of its own, `blob` is the JSON by which its next stage finds the cache.

    Attributes:
        blob: float32, shape [layers, 2, kv_heads, tokens, head_dim], C order; 2 is key, value.
        tokens: Positions held: every prompt token and every token generated before this prefill.
        first_token: The next token, not yet in the cache.
        cached_tokens: Of `tokens`, those that the prefix cache supplied.
        until_unix_s: Wall-clock second at which the engine that holds the cache may free it; 0 if it is as
            long as the blob lasts.
        generated: Of `tokens`, those of an answer that was lost; engines that read chats may do without.
    """

    blob: BlobHandle
    tokens: int
    first_token: int
    cached_tokens: int = 0
    until_unix_s: float = 0.0
    generated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSpan:
    """Placeholder positions [offset, offset + length) in a prompt that one media item fills."""

    offset: int
    length: int
    content_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids with placeholders where embeddings go; `media` is in order of offset."""

    token_ids: tuple[int, ...]
    media: tuple[MediaSpan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A request as its client wrote it, for an engine that reads chats itself.

    Attributes:
        body: JSON of a chat completion request in which the address of media item i is `media:<i>`.
        items: Media in order of appearance.
    """

    body: BlobHandle
    items: tuple[MediaItem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose tokens and when to stop.

    Attributes:
        max_tokens: Completion tokens at most, the end-of-sequence token not counted; ≥ 1.
        temperature: 0.0 is greedy; else logits are divided by it. 0.0 to 2.0.
        top_p: Nucleus mass, in (0, 1].
        seed: Key of the counter-based generator; the counter is the token's index, so a retry
            that starts at index k draws what the first try would have drawn.
        stop: Strings that end the text; they are not part of it. At most 4.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every hop carries.

    Attributes:
        request_id: Our id of the request, unique within the system.
        hop: `encode.<item index>`, `prefill` or `decode`; unique within the request. A second replica that
            does the same beside the first has `.hedge` behind it.
        attempt: Counts dispatches of this hop from 1; the fencing token of everything it writes.
        reply_to: Reply stream of the gateway that accepted the request.
        model: Name of the model asked for.
        deadline_unix_s: Wall-clock second after which the work is worth nothing.
        traceparent: W3C trace context, empty if there is none.
        x_request_id: The client's name for the request, for log lines only; need not be unique.
    """

    request_id: str
    hop: str
    attempt: int
    reply_to: str
    model: str
    deadline_unix_s: float
    traceparent: str = ""
    x_request_id: str = ""

    @property
    def key(self) -> str:
        """Name of this attempt, unique within the system."""
        return f"{self.request_id}|{self.hop}|{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob(Job):
    """Turn one media item into soft tokens."""

    item: MediaItem


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillJob(Job):
    """Fill the KV cache for a prompt.

    Attributes:
        prompt: Empty if the engine reads the chat.
        embeddings: One per `prompt.media` entry, or item of the chat, in the same order.
        generated: Tokens already streamed to the client by an attempt that was lost; they are
            prefilled behind the prompt and the sampled token has index len(generated).
    """

    prompt: Prompt
    embeddings: tuple[EmbeddingRef, ...]
    sampling: Sampling
    generated: tuple[int, ...] = ()
    chat: Chat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob(Job):
    """Produce the tokens behind a prefilled prompt.

    Attributes:
        kv: What prefill left; `kv.first_token` has index len(generated). None: the engine prefills too.
        embeddings: Of the chat's items, for an engine that prefills too; empty if it has to encode too.
        generated: As in `PrefillJob`; counts towards max_tokens and stop strings.
        chat: What the engine reads if it reads chats; `generated` is not in what it emits.
    """

    kv: KVRef | None
    sampling: Sampling
    generated: tuple[int, ...] = ()
    chat: Chat | None = None
    embeddings: tuple[EmbeddingRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChunk:
    """Consecutive output tokens of one decode.

    Attributes:
        index: Index of the first of `tokens`; 0 is prefill's token.
        tokens: Token ids without the end-of-sequence token. Text at and behind a stop string is
            cut by whoever renders the tokens, with the same `StopText`.
        finish: Set on the last chunk, which may have no tokens.
        raw: What an engine that writes answers itself has written for the client with these tokens: whole
            server-sent events, or one JSON body; empty of other engines.
    """

    index: int
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """What an engine says of itself, for routing and metrics.

    Attributes:
        queued_tokens: Tokens of work accepted, not started (image, prompt or output tokens).
        running_tokens: Tokens of work in progress and not yet done.
        batch_size: Requests in the current step.
        free_kv_bytes: KV-cache bytes in free blocks; 0 for encode.
        total_kv_bytes: KV-cache bytes in all blocks; 0 for encode.
        cache_queries: Lookups so far in the engine's own cache, in tokens: embeddings for encode,
            prefix blocks for prefill, 0 for decode.
        cache_hits: Of those, the tokens found.
        step_age_s: Seconds that the present step has been running, 0.0 when idle.
        steps: Steps finished so far.
        called_s: Seconds so far in which it worked for engines that called it themselves; its worker knows
            nothing of that work.
        encoders: Where the encoders are that it may call at this moment, by itself.
        prefills: Where the engines are that prefill for requests that it has at this moment.
    """

    queued_tokens: int = 0
    running_tokens: int = 0
    batch_size: int = 0
    free_kv_bytes: int = 0
    total_kv_bytes: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    step_age_s: float = 0.0
    steps: int = 0
    called_s: float = 0.0
    encoders: tuple[str, ...] = ()
    prefills: tuple[str, ...] = ()
