"""What pressure tests are: loads, what came of them, and what they cost each process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

GATEWAY, STORE, CLIENT = "gateway", "redis", "client"
"""Names of processes, beside those of the stages."""


class Row(NamedTuple):
    """One request of a test."""

    images: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """One test: requests of one shape, `concurrency` of them always in progress.

    Attributes:
        rows: The requests, in the order they were sent; images count in prompts.
        wall_s: In how many seconds.
        ttfts_s: Time to the first event of each request.
        tpot_s: Mean over requests with two tokens or more; 0.0 without any.
        events: Mean events with text in an answer.
        cpu_s: Processor seconds per request, by process.
    """

    rows: Sequence[Row]
    concurrency: int
    wall_s: float
    ttfts_s: Sequence[float]
    tpot_s: float
    events: float
    cpu_s: Mapping[str, float]

    @property
    def requests(self) -> int:
        """How many were answered."""
        return len(self.rows)

    @property
    def rate_per_s(self) -> float:
        """Requests answered per second."""
        return len(self.rows) / self.wall_s

    @property
    def images(self) -> float:
        """Mean of a request."""
        return fmean(row.images for row in self.rows)

    @property
    def prompt_tokens(self) -> float:
        """Mean of a request."""
        return fmean(row.prompt_tokens for row in self.rows)

    @property
    def output_tokens(self) -> float:
        """Mean of a request."""
        return fmean(row.output_tokens for row in self.rows)

    @property
    def ttft_s(self) -> float:
        """Mean."""
        return fmean(self.ttfts_s)

    @property
    def alone(self) -> bool:
        """Whether no request met another."""
        return self.concurrency == 1

    @property
    def hops(self) -> float:
        """Of one request."""
        return self.images + 2.0

    @property
    def steps(self) -> float:
        """Decode steps of one request."""
        return max(0.0, self.output_tokens - 1.0)

    @property
    def batch(self) -> float:
        """Mean sequences in a decode step, by Little's law; at least 1."""
        return max(1.0, self.rate_per_s * self.steps * self.tpot_s)

    @property
    def cores(self) -> float:
        """Processor seconds per second of all processes."""
        return sum(self.cpu_s.values()) * self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What processor time alone does not tell; see `SharedHost`."""

    cores: int
    slice_s: float
    seek: float
    stolen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The tests of one round.

    Attributes:
        tests: Of one shape each.
        mixed: Of the mix, at growing concurrency; the last one saturates.
    """

    tests: Sequence[Pressure]
    mixed: Sequence[Pressure]
