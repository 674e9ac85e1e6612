"""How close two replicas have to be: bytes, a link per shared topology level, and a budget."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How fast bytes go between two replicas.

    Attributes:
        bytes_per_s: One replica's share in one direction; > 0.
        latency_s: Seconds before the first byte is there.
    """

    bytes_per_s: float
    latency_s: float = 0.0

    def transfer_s(self, size_bytes: float) -> float:
        """Return the seconds until all bytes are there."""
        return self.latency_s + size_bytes / self.bytes_per_s


def required_level(size_bytes: float, links: Sequence[Link], budget_s: float) -> int | None:
    """Return the fewest leading topology levels to share so that a transfer is within its budget.

    Args:
        size_bytes: What one request moves over the edge.
        links: links[n] joins replicas that share n leading levels, so one more than there are levels.
        budget_s: Seconds that the transfer may take.

    Returns:
        None if even replicas that share every level are too far apart.
    """
    return next((n for n, link in enumerate(links) if link.transfer_s(size_bytes) <= budget_s), None)
