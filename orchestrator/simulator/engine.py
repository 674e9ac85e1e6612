"""What an engine is to its replica: hops go in, and it tells how far they have come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.simulator.hop import Hop

UNBOUNDED = 1 << 62
"""Slots, sequences or bytes of a replica that takes whatever comes."""

Work = Callable[[float, Callable[[Any], None], Any], None]
"""Does so many seconds of work, then calls back: `Clock.after`, or `Process.run` of a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestones:
    """Whom an engine tells of a hop's progress.

    Attributes:
        prefilled: Its prompt is computed and the first token sampled.
        done: All that the hop wanted of this replica is done.
        first: A replica that decodes alone lets go of the first token.
    """

    prefilled: Callable[[Hop], None]
    done: Callable[[Hop], None]
    first: Callable[[Hop], None] = lambda hop: None


class Engine(Protocol):
    """One replica's engine. After `stop` it calls nobody back."""

    def submit(self, hop: Hop) -> None:
        """Take a hop."""

    def busy_s(self) -> float:
        """Return the seconds in which it has had work, up to now."""

    def steps_left(self, hop: Hop) -> int | None:
        """Return the decode steps that a hop has still to make, None if it does not decode here."""

    def stop(self) -> None:
        """Lose all work."""
