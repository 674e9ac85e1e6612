"""What one gateway counts for control, at the moments at which the simulator counts."""

import time
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.core.counts import Backlog, Count
from orchestrator.core.types import Reason, StageTag
from orchestrator.hops import Request
from orchestrator.policy import Policy
from orchestrator.ports import Observer
from orchestrator.totals import ServiceTotals, judge, ttft_ratio
from stages.types import Stage

NONE_WAITING = dict.fromkeys(Stage, Backlog())


class Slo(NamedTuple):
    """Requests offered, those of which it is known how they did, and those that met their targets."""

    offered: int
    judged: int
    attained: int


def steady_unix_s() -> Callable[[], float]:
    """Return a clock that never jumps and shows about the same as those of other hosts."""
    ahead_s = time.time() - time.monotonic()
    return lambda: time.monotonic() + ahead_s


class Counting:
    """One gateway's totals; an `Observer` that counts what control needs and passes everything on.

    Costs a few additions for each request and hop, and nothing for a token.

    Args:
        gateway: Id of this boot of the gateway.
        policy: Returns the policy in force.
        observer: Hears everything too.
        clock: Shared by all gateways of the service.
    """

    def __init__(
        self,
        gateway: str,
        policy: Callable[[], Policy],
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._gateway = gateway
        self._policy = policy
        self._next = observer
        self._clock = clock
        self._open: dict[str, bool] = {}
        """Offered requests of which it is not known how they do, and whether their first token was sent."""
        self._totals = ServiceTotals(self._budgets_s(), clock())

    def offered(self, tag: StageTag, request: Request) -> None:
        """A request arrived, and its work is known; whether it is let in is not."""
        if request.request_id not in self._open:
            self._open[request.request_id] = False
            self._totals.offered(tag, self._clock())

    def first_token(self, request: Request, now_s: float) -> None:
        """A request's first token is on its way to the client."""
        self._open[request.request_id] = True
        if request.due_s is not None:
            ratio = ttft_ratio(request.arrival_s, request.due_s, now_s)
            self._totals.first_token(ratio, self._clock())

    def completed(self, request: Request, first_s: float, output_tokens: int, now_s: float) -> None:
        """A completion ended well."""
        if self._open.pop(request.request_id, None) is None or request.due_s is None:
            return
        target_s = self._policy().slo.tpot_s
        tpot_s, attained = judge(request.due_s, first_s, now_s, output_tokens, target_s)
        self._totals.completed(output_tokens, tpot_s / target_s, attained, self._clock())

    def gone(self, request: Request, now_s: float) -> None:
        """The client has left. If nothing was late by then, nobody can say whether it would have been."""
        begun = self._open.get(request.request_id)
        if begun or request.due_s is None or now_s < request.due_s:
            self._open.pop(request.request_id, None)

    def ended(self, request: Request) -> None:
        """A request is over; one that was offered and not answered is a miss."""
        if self._open.pop(request.request_id, None) is not None:
            self._totals.missed()

    def count(self) -> Count:
        """Return what was counted; what waits is known to the queues."""
        now_s, budgets_s = self._clock(), self._budgets_s()
        if budgets_s != self._totals.budgets_s:  # the policy file was edited
            self._totals.set_budgets(budgets_s, now_s)
        return self._totals.count(self._gateway, now_s, NONE_WAITING)

    def slo(self) -> Slo:
        """Return how requests did; may be called on any thread, unlike all else."""
        return Slo(self._totals.requests, self._totals.judged, self._totals.attained)

    def arrived(self, stage: Stage, *, again: bool) -> None:
        """See `Observer.arrived`."""
        self._next.arrived(stage, again=again)

    def routed(self, stage: Stage, reason: Reason) -> None:
        """See `Observer.routed`."""
        self._next.routed(stage, reason)

    def waited(self, stage: Stage, wait_s: float) -> None:
        """See `Observer.waited`."""
        self._totals.started(stage, wait_s)
        self._next.waited(stage, wait_s)

    def did(self, stage: Stage, tokens: int, cached_tokens: int = 0) -> None:
        """See `Observer.did`. Output tokens are counted when their completion ends."""
        if stage is not Stage.DECODE:
            self._totals.done(stage, tokens)
            if stage is Stage.ENCODE:
                self._totals.image_hit(cached_tokens)
            else:
                self._totals.prefilled(tokens + cached_tokens, cached_tokens)
        self._next.did(stage, tokens, cached_tokens)

    def worked(self, stage: Stage, work_s: float) -> None:
        """See `Observer.worked`."""
        self._next.worked(stage, work_s)

    def _budgets_s(self) -> dict[Stage, float]:
        return {stage: self._policy().stages[stage].budget_s for stage in Stage}
