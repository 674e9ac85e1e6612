"""One simulated service: requests come in, make their journey and end; control sees what it needs to."""

from collections import Counter

from orchestrator.core.counts import Backlog
from orchestrator.core.observe import Reading, ServiceView
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.content import NEW, Content
from orchestrator.simulator.endings import Endings
from orchestrator.simulator.intake import Intake
from orchestrator.simulator.journey import Journey
from orchestrator.simulator.outcomes import Outcomes
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.prefixes import Prefixes
from orchestrator.simulator.queues import Reasons
from orchestrator.simulator.terms import Terms
from orchestrator.totals import ServiceTotals
from stages.types import Stage

COUNTER = "simulated"


class Service:
    """One service's requests, pools and counters.

    Args:
        clock: The virtual clock.
        pools: In the order that a request visits them.
        terms: What it is told.
        totals: Counts for control.
        outcomes: Records what becomes of each request.
        prefixes: What replicas hold of prompts; None if the requests say nothing of what they share.

    Attributes:
        reasons: Of admission (stage None) and of routing, with counts.
        endings: How its requests end.
        journey: How they get there.
        pool_of: Its pools by stage.
    """

    def __init__(
        self,
        clock: Clock,
        pools: tuple[Pool, ...],
        terms: Terms,
        totals: ServiceTotals,
        outcomes: Outcomes,
        prefixes: Prefixes | None = None,
    ) -> None:
        self._clock = clock
        self.pools = pools
        self.totals = totals
        self.reasons: Reasons = Counter()
        self.endings = Endings(clock, terms.promises.tpot_s, totals, outcomes)
        self.journey = Journey(clock, pools, terms, totals, self.endings, self.reasons, prefixes)
        self.pool_of = self.journey.queues.pool_of
        self._intake = Intake(terms, self.journey.queues.load, totals, self.endings, self.reasons)

    @property
    def outcomes(self) -> Outcomes:
        """What became of each request."""
        return self.endings.outcomes

    def arrive(
        self,
        index: int,
        images: int,
        text_tokens: int,
        output_tokens: int,
        content: Content = NEW,
        sent_s: float | None = None,
    ) -> None:
        """A request comes in; its client sent it at `sent_s`, now by default."""
        now_s = self._clock.now_s
        sent_s = now_s if sent_s is None else sent_s
        taken = self._intake.take(index, images, text_tokens, output_tokens, content, sent_s, now_s)
        if taken:
            request, held = taken
            self.journey.begin(request, held=held)

    def view(self) -> ServiceView:
        """Return what control sees of it."""
        pools = self.pool_of
        waiting = {s: Backlog(float(pools[s].waiting_tokens), pools[s].depth) for s in Stage}
        return ServiceView(
            counts=(self.totals.count(COUNTER, self._clock.now_s, waiting),),
            readings={s: [Reading(r, r.engine.busy_s()) for r in pools[s].replicas] for s in Stage},
        )
