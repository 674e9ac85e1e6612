"""What a simulated service is told: its model, its promises, and what replicas and links do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.admission import AdmissionBounds
from orchestrator.core.profile import ModelProfile
from orchestrator.core.waiting import WaitingParams
from stages.types import Stage

Transfer = Callable[[int, tuple[str, ...], tuple[str, ...]], float]
"""Seconds to move so many bytes from one domain to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What the service promises and when it refuses.

    Attributes:
        tpot_s: Target of the mean time per output token.
        max_context: Positions of a request at most; None for no limit.
        deadline_s: A request is given up this long after its arrival.
    """

    bounds: AdmissionBounds
    waiting: WaitingParams
    tpot_s: float
    max_context: int | None
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What one replica is taken to do per second, for ordering and admission, and alone with a request.

    Attributes:
        rates: Units per second of one replica, by stage.
        image_s: Seconds to encode one image, preparing it apart.
        images_at_once: Images that a request alone has encoded side by side.
    """

    rates: Mapping[Stage, float]
    image_s: float
    images_at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All of that.

    Attributes:
        profile: The model's.
        promises: From the policy file.
        speeds: From the profile at the service's mix.
        transfer: How long moving bytes takes.
        servable: Whether each request of the workload fits into the context and a replica; bool [requests].
    """

    profile: ModelProfile
    promises: Promises
    speeds: Speeds
    transfer: Transfer
    servable: NDArray[np.bool_]
