"""The band: the prefill:decode ratio as a stand-in for a signal that fails."""

import math
from dataclasses import dataclass

from orchestrator.core.observed import StageSignals
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.flow import Need

SATURATED_UTILISATION = 0.98
SATURATED_KV = 0.95
"""Decode's utilisation is pinned high under continuous batching; a full KV cache tells (HeteroScale)."""
SATURATED_MOST = 1.2
"""A signal that is saturated is too low, not wrong: the ratio may raise its need by a guardrail's step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Smoothed unrounded needs of both stages; their quotient is the ratio. 0.0 before the first."""

    prefill: float = 0.0
    decode: float = 0.0

    def learnt(self, prefill: float, decode: float, keep: float) -> "Band":
        """Return it after one more observation, of which the past keeps this weight.

        Below one replica's load a ratio says nothing, so such needs teach nothing.
        """
        if min(prefill, decode) < 1.0:
            return self
        if not self.prefill:
            return Band(prefill=prefill, decode=decode)
        return Band(
            prefill=keep * self.prefill + (1.0 - keep) * prefill,
            decode=keep * self.decode + (1.0 - keep) * decode,
        )

    def ratio(self, params: CoupledParams) -> float | None:
        """Return prefill replicas per decode replica; None if it is neither given nor learnt."""
        if params.ratio is not None:
            return params.ratio
        return self.prefill / self.decode if self.decode else None


NO_BAND = Band()


def trusted(seen: StageSignals, need: Need) -> bool:
    """Return whether a stage's own need can be relied on and learnt from."""
    return need.known and seen.fresh and not saturated(seen)


def saturated(seen: StageSignals) -> bool:
    """Return whether a stage is so full that what it shows says less than its load."""
    return seen.kv_usage >= SATURATED_KV or (
        seen.kv_usage == 0.0 and seen.utilisation is not None and seen.utilisation >= SATURATED_UTILISATION
    )


def filled(own: Need, seen: StageSignals, other: Need, other_seen: StageSignals, share: float) -> Need:
    """Return a stage's need, from the other's times `share` while its own signal fails.

    An unknown need is replaced. One that is stale or saturated, so at worst too low, is raised: saturated by
    a fifth at most. The other's must be good.
    """
    if trusted(seen, own) or not trusted(other_seen, other):
        return own
    by_ratio = other.scaled(share)
    if not own.known:
        return by_ratio
    if by_ratio.offered <= own.offered:
        return own
    return own.raised(by_ratio, SATURATED_MOST if seen.fresh else math.inf)
