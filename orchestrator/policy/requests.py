"""What a policy file says of requests: which are refused, which wait, and what they are promised."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from orchestrator.addresses import AllowList
from orchestrator.yaml_fields import STRICT, Count, Name, NotNegative, Seconds

MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    images: Annotated[int, Field(ge=0, description="Media items in one request.")] = 64
    body_mb: Annotated[Seconds, Field(description="Megabytes (10^6 bytes) of a request body.")] = 16.0
    media_mb: Annotated[
        Seconds, Field(description="Megabytes (10^6 bytes) of a request's media together, as encoded.")
    ] = 64.0
    image_px: Annotated[
        Count,
        Field(description="Pixels of one item as declared: width times height times all frames in the file."),
    ] = 40_000_000
    frames: Annotated[Count, Field(description="Frames sampled of one video or animation.")] = 8

    @property
    def body_bytes(self) -> int:
        """Bytes of a request body at most."""
        return round(self.body_mb * MB)

    @property
    def media_bytes(self) -> int:
        """Bytes of a request's media at most, all items together, as encoded."""
        return round(self.media_mb * MB)


def _check_allowed(target: str) -> str:
    AllowList.parse([target])
    return target


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """How the gateway fetches media by URL."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    timeout_s: Annotated[
        Seconds, Field(description="Seconds that one media URL may take, redirects included.")
    ] = 5.0
    allow: Annotated[
        tuple[Annotated[Name, AfterValidator(_check_allowed)], ...],
        Field(description="Hosts and networks (CIDR) that may be fetched from though they are private."),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """What is refused, and in which order the rest waits."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    queue_s: Annotated[
        Seconds,
        Field(description="Backlog seconds of a stage, over all gateways, above which requests get 429."),
    ] = 10.0
    deadline_s: Annotated[
        Seconds, Field(description="Seconds after which a request that names no deadline is given up.")
    ] = 60.0
    age_s: Annotated[
        NotNegative,
        Field(description="Seconds after which later requests of equal priority no longer overtake."),
    ] = 10.0
    priority_s: Annotated[
        NotNegative, Field(description="Seconds of head start that priority 100 is worth.")
    ] = 10.0
    limits: Annotated[Limits, Field(description="What one request may ask for.")] = Limits()
    fetch: Annotated[FetchPolicy, Field(description="How media URLs are fetched.")] = FetchPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class SloPolicy:
    """What the service promises."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    ttft_s: Annotated[Seconds, Field(description="Target of the time to first token.")] = 2.0
    tpot_s: Annotated[Seconds, Field(description="Target of the mean time per output token.")] = 0.05
    attainment: Annotated[
        float, Field(gt=0, le=1, description="Fraction of offered requests that shall meet the targets.")
    ] = 0.99
    size_normalised: Annotated[
        bool,
        Field(description="A large request's TTFT target is `stretch` times its isolated time, if longer."),
    ] = True
    stretch: Annotated[
        float, Field(ge=1, allow_inf_nan=False, description="Target over isolated time of large requests.")
    ] = 5.0
