"""What became of each request, as columns."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Ending(IntEnum):
    """How a request ended."""

    OPEN = 0
    ANSWERED = 1
    REFUSED = 2
    EXPIRED = 3
    FAILED = 4


class Outcomes:
    """One row a request, in the order of arrival.

    Attributes:
        ending: An `Ending`, int8.
        ttft_s: Arrival to first token, float32; NaN if there was none.
        tpot_s: Mean time per output token after the first, float32; NaN if there was none, 0 for one token.
        attained: Whether it met its targets; a refusal did not.
    """

    def __init__(self, requests: int) -> None:
        self.ending: NDArray[np.int8] = np.zeros(requests, np.int8)
        self.ttft_s: NDArray[np.float32] = np.full(requests, np.nan, np.float32)
        self.tpot_s: NDArray[np.float32] = np.full(requests, np.nan, np.float32)
        self.attained: NDArray[np.bool_] = np.zeros(requests, np.bool_)

    def end(self, index: int, ending: Ending) -> None:
        """Record how a request ended without an answer.

        Raises:
            RuntimeError: It has ended before: every accepted request ends exactly once.
        """
        if self.ending[index]:
            raise RuntimeError(
                f"request {index} ended twice: {Ending(self.ending[index]).name}, {ending.name}"
            )
        self.ending[index] = ending

    def answer(self, index: int, ttft_s: float, tpot_s: float, attained: bool) -> None:
        """Record an answer."""
        self.end(index, Ending.ANSWERED)
        self.ttft_s[index] = ttft_s
        self.tpot_s[index] = tpot_s
        self.attained[index] = attained
