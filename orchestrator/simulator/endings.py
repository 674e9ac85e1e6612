"""How a simulated request is answered, refused or given up; each ends once."""

from orchestrator.output_length import OutputLength
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.hop import Request
from orchestrator.simulator.outcomes import Ending, Outcomes
from orchestrator.totals import ServiceTotals, judge, ttft_ratio


class Endings:
    """The way out of one service.

    Args:
        clock: The virtual clock.
        tpot_s: Target of the mean time per output token.
        totals: Counts for control.
        outcomes: Records what becomes of each request.

    Attributes:
        lengths: Of completions so far.
    """

    def __init__(self, clock: Clock, tpot_s: float, totals: ServiceTotals, outcomes: Outcomes) -> None:
        self._clock = clock
        self._tpot_s = tpot_s
        self._totals = totals
        self.outcomes = outcomes
        self.lengths = OutputLength()

    def first_token(self, request: Request) -> None:
        """The first token is sent, unless that was before its decode was lost."""
        if not request.first_token_s:
            now_s = request.first_token_s = self._clock.now_s
            self._totals.first_token(ttft_ratio(request.arrival_s, request.due_s, now_s), now_s)

    def answered(self, request: Request) -> None:
        """The last token is sent."""
        now_s, tokens = self._clock.now_s, request.output_tokens
        request.ended = True
        self.lengths.observe(tokens)
        tpot_s, attained = judge(request.due_s, request.first_token_s, now_s, tokens, self._tpot_s)
        self.outcomes.answer(request.index, request.first_token_s - request.arrival_s, tpot_s, attained)
        self._totals.completed(tokens, tpot_s / self._tpot_s, attained, now_s)

    def refused(self, index: int) -> None:
        """The request of a row was not let in."""
        self._missed(index, Ending.REFUSED)

    def turned_away(self, index: int) -> None:
        """The request of a row can never be served: it is a miss, and control does not hear of it."""
        self.outcomes.end(index, Ending.REFUSED)

    def expired(self, request: Request) -> None:
        """A request is past its deadline; no change if it has ended."""
        if not request.ended:
            request.ended = True
            self._missed(request.index, Ending.EXPIRED)

    def _missed(self, index: int, ending: Ending) -> None:
        self.outcomes.end(index, ending)
        self._totals.missed()
