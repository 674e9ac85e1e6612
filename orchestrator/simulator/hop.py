"""The nouns of a simulated request: what it is, and its visits to replicas."""

from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.core.types import StageTag
from orchestrator.simulator.content import NEW, Content

NO_PREFIX: Mapping[str, int] = {}


class Embedding(NamedTuple):
    """An image's embedding and where it lies.

    Attributes:
        domain: Of the node.
        node_id: Whose blob store has it.
        made_s: When it was put there.
        content: See `Hop.content`.
    """

    domain: tuple[str, ...]
    node_id: str
    made_s: float
    content: str


class Request:
    """One request on its way.

    Attributes:
        index: Its row in the workload and in the outcomes.
        tag: What it brings to each stage.
        output_tokens: Tokens that its completion will turn out to have; ≥ 1.
        due_s: When its first token is due.
        deadline_s: When it is given up.
        content: What of it may have been seen before.
        images_left: Images not yet encoded.
        embeddings_at: Its embeddings, as they were made.
        said: Tokens that a decode had sent when it was lost; they need not be made again.
        first_token_s: When its first token was sent; 0.0 before.
        ended: Answered, refused or given up.
    """

    __slots__ = (
        "arrival_s",
        "content",
        "deadline_s",
        "due_s",
        "embeddings_at",
        "ended",
        "first_token_s",
        "images_left",
        "index",
        "output_tokens",
        "said",
        "tag",
    )

    def __init__(
        self,
        index: int,
        tag: StageTag,
        output_tokens: int,
        arrival_s: float,
        due_s: float,
        deadline_s: float,
        content: Content = NEW,
    ) -> None:
        self.index = index
        self.tag = tag
        self.output_tokens = output_tokens
        self.arrival_s = arrival_s
        self.due_s = due_s
        self.deadline_s = deadline_s
        self.content = content
        self.images_left = len(tag.item_tokens)
        self.embeddings_at: list[Embedding] = []
        self.said = 0
        self.first_token_s = 0.0
        self.ended = False


class Hop:
    """One visit of a request to one replica.

    Attributes:
        images: Images that it encodes there.
        prompt_tokens: Prompt tokens that it prefills there.
        steps: Decode steps that it makes there; the first token comes from prefill.
        context_tokens: KV positions that it starts to decode with.
        decoding: Its replica has prefilled it, and decodes it too.
        tokens: Work in the unit of the pool's first stage, for the router.
        kv_bytes: KV cache that it holds there.
        content: Names the image, for cache affinity; empty if nothing repeats.
        prefix_tokens: Prompt tokens that replicas are believed to hold when it begins to wait, by replica id.
        cached_images: Images whose embeddings its replica held, and so not among `images`.
        cached_tokens: Prompt tokens whose KV its replica held, and so not among `prompt_tokens`.
        queued_s: When it began to wait.
        begun: Whether all that it needs is on its replica, and its engine has it.
        attempt: Grows when its replica is lost, so that what was due for it there is ignored.
    """

    __slots__ = (
        "attempt",
        "begun",
        "cached_images",
        "cached_tokens",
        "content",
        "context_tokens",
        "decoding",
        "images",
        "kv_bytes",
        "prefix_tokens",
        "prompt_tokens",
        "queued_s",
        "request",
        "steps",
        "steps_waited",
        "tokens",
    )

    def __init__(
        self,
        request: Request,
        *,
        tokens: int,
        images: int = 0,
        prompt_tokens: int = 0,
        steps: int = 0,
        context_tokens: int = 0,
        kv_bytes: int = 0,
        content: str = "",
        prefix_tokens: Mapping[str, int] = NO_PREFIX,
    ) -> None:
        self.request = request
        self.tokens = tokens
        self.images = images
        self.prompt_tokens = prompt_tokens
        self.steps = steps
        self.context_tokens = context_tokens
        self.kv_bytes = kv_bytes
        self.content = content
        self.prefix_tokens = prefix_tokens
        self.cached_images = 0
        self.cached_tokens = 0
        self.queued_s = 0.0
        self.begun = False
        self.attempt = 0
        self.decoding = False
        self.steps_waited = 0
