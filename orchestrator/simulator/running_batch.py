"""A replica's decode batch on the clock: an event for a join and one for a leave, none for a token."""

from collections.abc import Callable

from orchestrator.core.profile import DecodeTiming
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.decode_batch import DecodeBatch
from orchestrator.simulator.hop import Hop


class RunningBatch:
    """Sequences that decode together, by themselves or in steps that other work shares.

    Args:
        clock: The virtual clock.
        timing: Of a step without other work.
        done: Hears of each hop that has made its steps.
        go_on: Decides what comes next when hops were done and nobody who heard of it began anything; by
            default it runs by itself.
    """

    __slots__ = ("_as_of_s", "_batch", "_clock", "_done", "_go_on", "_plan")

    def __init__(
        self,
        clock: Clock,
        timing: DecodeTiming,
        done: Callable[[Hop], None],
        go_on: Callable[[], None] | None = None,
    ) -> None:
        self._clock = clock
        self._batch: DecodeBatch[Hop] = DecodeBatch(timing)
        self._done = done
        self._go_on = go_on or self.run
        self._as_of_s = 0.0
        self._plan = 0

    def __len__(self) -> int:
        return len(self._batch)

    def join(self, hop: Hop) -> None:
        """Add a hop, with all its steps before it."""
        self._batch.join(hop, hop.context_tokens, hop.steps)

    def steps_left(self, hop: Hop) -> int | None:
        """Return the steps that a hop has still to make; None if it is not here."""
        return self._batch.steps_left(hop)

    def run(self) -> None:
        """Run by itself from here on, until somebody is done."""
        self.hold()
        if len(self._batch):
            self._clock.after(self._batch.next_done_s(), self._on_done, self._plan)

    def hold(self) -> None:
        """Run by itself no more: a step of other work has begun, or is about to."""
        self._plan += 1

    def catch_up(self) -> None:
        """Make the steps that were made by itself since the last look."""
        self._batch.advance(self._clock.now_s - self._as_of_s)
        self._as_of_s = self._clock.now_s

    def step(self) -> None:
        """Make the step that other work has shared and that ends now."""
        self._as_of_s = self._clock.now_s
        if len(self._batch):
            self._batch.step()
            self._let_go()

    def stop(self) -> None:
        """Call nobody back any more."""
        self._plan = -1

    def added_s(self, alone_s: float) -> float:
        """Return what a step of other work takes longer for the batch: weights, `alone_s`, are read once."""
        return self._batch.step_s() - alone_s if len(self._batch) else 0.0

    def _on_done(self, plan: int) -> None:
        if plan != self._plan:
            return  # somebody joined since: the batch became slower
        self.catch_up()
        self._let_go()
        if self._plan == plan:  # nobody joined in turn
            self._go_on()

    def _let_go(self) -> None:
        while hop := self._batch.pop_done():
            self._done(hop)
