"""From a load to a need: unrounded replicas, None where the profile has no rate to divide by."""

from orchestrator.core.observed import StageSignals
from orchestrator.core.queueing import servers_needed

POISSON = 2.0
"""ca² + cs² of M/M/N."""


def throughput_need(load: float, stage: StageSignals, headroom: float = 1.0) -> float | None:
    """Return load / (mu · headroom): enough throughput, whatever the wait.

    Args:
        load: Units per second.
        stage: Its `rate` is mu.
        headroom: Fraction of mu to plan with, above 0 to 1.
    """
    return load / (stage.rate * headroom) if stage.rate > 0.0 else None


def waiting_need(
    load: float, stage: StageSignals, *, dispersion: bool = True, wait_share: float = 1.0
) -> float | None:
    """Return the fewest replicas whose 99th percentile of the wait is within the stage's budget.

    Args:
        load: Units per second.
        stage: Its `rate`, `job_s`, `variability` and `budget_s` are read.
        dispersion: Whether to size for the variability that was measured; if not, for Poisson arrivals
            of exponential jobs, one at a time.
        wait_share: Fraction of `budget_s` that waiting may take.
    """
    if stage.rate <= 0.0:
        return None
    variability = stage.variability if dispersion else POISSON
    return servers_needed(load / stage.rate, stage.job_s, variability, stage.budget_s * wait_share)
