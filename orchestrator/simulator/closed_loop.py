"""Simulates a pressure test: so many requests always in progress."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.clock import Clock
from orchestrator.simulator.content import Content
from orchestrator.simulator.outcomes import Ending, Outcomes
from orchestrator.simulator.run import Scenario, Simulation
from orchestrator.simulator.work import work_from_rows

_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressed:
    """What a simulated test gave.

    Attributes:
        ttft_s: Of each request, float32; likewise `tpot_s`, 0 for one token.
        rate_per_s: Requests answered per second.
    """

    ttft_s: NDArray[np.float32]
    tpot_s: NDArray[np.float32]
    rate_per_s: float


class _Turnstile(Outcomes):
    """Lets the next request in when one ends."""

    def __init__(self, requests: int, clock: Clock) -> None:
        super().__init__(requests)
        self._clock = clock
        self.enter = lambda _: None

    def end(self, index: int, ending: Ending) -> None:
        """See `Outcomes`."""
        super().end(index, ending)
        self._clock.after(0.0, self.enter, None)


def closed_loop(scenario: Scenario, concurrency: int) -> Pressed:
    """Run the workload's requests in their order, `concurrency` of them in progress; arrivals do not matter.

    Raises:
        ValueError: The profile has no shared host: nothing else is put under pressure so.
    """
    tenant = scenario.only
    work, profile = tenant.workload, tenant.control.profile
    if profile.host is None:
        raise ValueError(f"{profile.model} was not measured on a shared host")
    simulation = Simulation(scenario)
    clock = simulation.clock
    outcomes = simulation.services[0].endings.outcomes = _Turnstile(len(work), clock)
    simulation.world.start(scenario.first)
    columns = (work.images, work_from_rows(work, profile).text_tokens, work.output_tokens)
    rows = enumerate(zip(*[column.tolist() for column in columns], strict=True))

    def enter(_: None) -> None:
        if row := next(rows, None):
            index, (images, text_tokens, output_tokens) = row
            simulation.arrive[0](index, images, text_tokens, output_tokens, Content(images=str(index)))

    outcomes.enter = enter
    for _ in range(concurrency):
        enter(None)
    while not outcomes.ending.all():
        clock.run_until(clock.now_s + _LOOK_S)
    return Pressed(ttft_s=outcomes.ttft_s, tpot_s=outcomes.tpot_s, rate_per_s=len(work) / clock.now_s)
