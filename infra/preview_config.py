"""What `Pulumi.<stack>.yaml` says of predictions, under `tercet:preview`."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from orchestrator.yaml_fields import STRICT, Count, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    """What `pulumi preview` and `pulumi up` predict with.

    Attributes:
        simulate: Whether they predict at all.
        trace: Requests of every service, as for `tercet simulate --trace`, from the project; null: each
            policy's `demand.trace`, or else the shipped window of Azure's.
        rate_scale: So many times the requests per second.
        requests: Of all services together at most; traces are cut to as many of their first seconds.
        seed: Of everything random.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    simulate: bool = True
    trace: Name | None = None
    rate_scale: Annotated[float, Field(ge=0.001, le=1e6)] = 1.0
    requests: Count = 20_000
    seed: Annotated[int, Field(ge=0)] = 0
