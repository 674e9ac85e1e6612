"""The nouns of profile files, named as their keys. Figures stay as they were published or measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from orchestrator.core.image_size import tiles_of
from orchestrator.yaml_fields import STRICT, Count, InfeasibleError, Name, NotNegative, Seconds

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Between = tuple[NotNegative, NotNegative]


def _ascending(spread: tuple[float, float, float]) -> tuple[float, float, float]:
    if list(spread) != sorted(spread):
        raise ValueError(f"{list(spread)} is not in ascending order: lowest, taken, highest")
    return spread


Spread = Annotated[tuple[NotNegative, NotNegative, NotNegative], AfterValidator(_ascending)]


def check_order(pair: tuple[float, float] | None, key: str) -> None:
    """See that the lower of two bounds is first.

    Raises:
        InfeasibleError: It is not.
    """
    if pair and pair[0] > pair[1]:
        raise InfeasibleError(f"{pair[0]:g} is above {pair[1]:g}: the lower comes first", key)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareRef:
    """A hardware class."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hardware: Name
    tp: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Times of one stage on one hardware class: measured, or those of another class divided by a speed.

    Attributes:
        error: tuple[Positive, Positive] (low, high) on the times between which the truth is believed to be.
        source: Key of the file's `sources`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hardware: Name
    tp: Count
    like: HardwareRef | None = None
    speed: Positive | None = None
    error: tuple[Positive, Positive]
    source: Name

    def __post_init__(self) -> None:
        check_order(self.error, "error")
        if (self.like is None) != (self.speed is None):
            raise InfeasibleError("`like` and `speed` go together")
        if (self.like is None) == (self.measured is None):
            raise InfeasibleError("a row has either figures of its own, or `like` and `speed`")

    @property
    def measured(self) -> object:
        """The row's own figures, None if it has none."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRow(Row):
    """Seconds of one tile."""

    tile_s: Seconds | None = None

    @property
    def measured(self) -> object:
        """See `Row`."""
        return self.tile_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRow(Row):
    """Prompt tokens per second, by tokens in the step."""

    tokens_per_s: Annotated[Mapping[Count, Positive], Field(min_length=1)] | None = None

    @property
    def measured(self) -> object:
        """See `Row`."""
        return self.tokens_per_s

    def __post_init__(self) -> None:
        Row.__post_init__(self)
        points = sorted((self.tokens_per_s or {}).items())
        times = [tokens / rate for tokens, rate in points]
        if times != sorted(times):
            raise InfeasibleError("a step with more tokens takes less time", "tokens_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRow(Row):
    """Inter-token latency by sequences in the batch, each with `context_tokens` in its KV cache.

    A class may have several rows, one per context.
    """

    context_tokens: Count | None = None
    itl_s: Annotated[Mapping[Count, Seconds], Field(min_length=1)] | None = None

    @property
    def measured(self) -> object:
        """See `Row`."""
        return self.itl_s

    def __post_init__(self) -> None:
        Row.__post_init__(self)
        if (self.itl_s is None) != (self.context_tokens is None):
            raise InfeasibleError("`itl_s` and `context_tokens` go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One image of the size that the profile is for.

    Attributes:
        px: Width and height.
        tiles: Images of the encoder's own size that it is cut into.
        tile_px: Width and height of these; None if the model has images of one size.
        thumbnail: Whether an image of several tiles is one more as a whole.
        tokens: Embedding rows.
        kv_bytes: Left in cross-attention layers.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    px: Count
    tiles: Count
    tile_px: Count | None = None
    thumbnail: bool = False
    tokens: Count
    embedding_bytes: Count
    kv_bytes: Annotated[int, Field(ge=0)] = 0
    preprocess_s: NotNegative
    source: Name

    def __post_init__(self) -> None:
        if self.tile_px:
            tiles = tiles_of(self.px, self.tile_px, thumbnail=self.thumbnail)
            if tiles != self.tiles:
                raise InfeasibleError(f"{self.px} px make {tiles} of {self.tile_px} px", "tiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelFacts:
    """What prefill and decode hold."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    weights_bytes: Count
    kv_bytes_per_token: Count
    chunk_tokens: Count
    source: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSection:
    """Timings of encode."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    weights_bytes: Count
    rows: Annotated[tuple[EncodeRow, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSection:
    """Timings of prefill."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rows: Annotated[tuple[PrefillRow, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSection:
    """Timings of decode.

    Attributes:
        kv_efficiency: Fraction of memory bandwidth at which KV caches are read.
        measured_kv_bytes_per_token: Of the model that the rows are of, if that is another one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    kv_efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    measured_kv_bytes_per_token: Count | None = None
    rows: Annotated[tuple[DecodeRow, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartFacts:
    """Seconds, each between two bounds; `ColdStart` explains them."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    node_s: Between
    pull_s: Between
    load_s: Between
    source: Name

    def __post_init__(self) -> None:
        for key in ("node_s", "pull_s", "load_s"):
            check_order(getattr(self, key), key)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStarts:
    """Of an encode replica, and of one with the language model."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    encode: ColdStartFacts
    language_model: ColdStartFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHops:
    """Processor seconds of a hop beside the stage's own work."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    encode: Spread
    prefill: Spread
    decode: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The machine that all processes share; `SharedHost` explains the figures.

    Each is (lowest, taken, highest): what is taken fits all rounds of measurement, the others are the fits of
    single rounds furthest from it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    cores: Count
    slice_s: Spread
    seek: Spread
    stolen: Spread
    request_s: Spread
    hop_s: Spread
    event_s: Spread
    store_hop_s: Spread
    store_write_s: Spread
    worker_hop_s: WorkerHops
    client_request_s: Spread
    client_event_s: Spread
    late: Spread
    wake_s: Spread
    store_wake_s: Spread
    slowness: Annotated[tuple[Positive, ...], Field(min_length=1)]
    source: Name

    def __post_init__(self) -> None:
        if self.slice_s[0] <= 0.0:
            raise InfeasibleError("a time slice is longer than nothing", "slice_s")
        if self.seek[2] > 1.0:
            raise InfeasibleError(f"{self.seek[2]:g} is no probability", "seek")
        if self.stolen[2] >= 1.0:
            raise InfeasibleError(f"{self.stolen[2]:g} leaves nothing of the cores", "stolen")
        if self.late[2] >= 1.0:
            raise InfeasibleError(f"{self.late[2]:g} leaves nothing of a hop before its answer", "late")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """How many decode replicas one prefill replica feeds, both saturated.

    Attributes:
        sequences: In a decode batch.
        decode_per_prefill: (lowest, taken, highest).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompt_tokens: Count
    output_tokens: Count
    sequences: Count
    decode_per_prefill: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFile:
    """One model's profile.

    Attributes:
        aliases: Other names that `find_profile` knows it by.
        measured: Whether this very model was measured on these very machines.
        date: Of the measurement or of the last change, YYYY-MM-DD.
        sources: What the rows' `source` stands for.
        host: The machine that every replica shares with the gateway, Redis and the clients, if they do.
        frontier: What `tercet profile measure` found; nothing reads it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    apiVersion: Literal["tercet/profile/v1"]  # noqa: N815
    model: Name
    aliases: tuple[Name, ...] = ()
    kappa: Literal[0, 1]
    measured: bool
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    sources: Mapping[Name, Name]
    image: ImageFacts
    language_model: LanguageModelFacts
    encode: EncodeSection
    prefill: PrefillSection
    decode: DecodeSection
    cold_start: ColdStarts
    host: HostFacts | None = None
    frontier: tuple[Frontier, ...] = ()
