"""A decode batch between joins and leaves, in closed form: no event per token.

While B sequences with S tokens of context run, step k takes a + b·B + c·(S + k·B) seconds, each step
adding a token to every sequence. Taken as continuous, k steps take α·k + c·B·k²/2 with α = a + b·B + c·S.
"""

import heapq
import math
from typing import Generic, TypeVar

from orchestrator.core.profile import DecodeTiming

MemberT = TypeVar("MemberT")

_ROUNDING_STEPS = 1e-6


class DecodeBatch(Generic[MemberT]):
    """Sequences that decode together.

    Attributes:
        steps: Steps made since the batch was first used; a real number.
    """

    __slots__ = ("_context_tokens", "_joined", "_leaving", "_timing", "steps")

    def __init__(self, timing: DecodeTiming) -> None:
        self._timing = timing
        # (step at which it leaves, order of joining, context it then has, sequence)
        self._leaving: list[tuple[float, int, float, MemberT]] = []
        self._context_tokens = 0.0
        self._joined = 0
        self.steps = 0.0

    def __len__(self) -> int:
        return len(self._leaving)

    def join(self, member: MemberT, context_tokens: int, steps: int) -> None:
        """Add a sequence that will make `steps` more steps, with `context_tokens` in its cache now."""
        self._joined += 1
        self._context_tokens += context_tokens
        entry = (self.steps + steps, self._joined, float(context_tokens + steps), member)
        heapq.heappush(self._leaving, entry)

    def remove(self, member: MemberT) -> None:
        """Take out a sequence before its end."""
        at = next(i for i, entry in enumerate(self._leaving) if entry[3] is member)
        leaves, _, context_tokens, _ = self._leaving.pop(at)
        heapq.heapify(self._leaving)
        self._context_tokens -= context_tokens - (leaves - self.steps)

    def steps_left(self, member: MemberT) -> int | None:
        """Return the steps that a sequence has still to make, a begun one too; None if it is not here."""
        leaves = next((entry[0] for entry in self._leaving if entry[3] is member), None)
        return None if leaves is None else max(0, math.ceil(leaves - self.steps - _ROUNDING_STEPS))

    def pop_done(self) -> MemberT | None:
        """Take out and return a sequence that has made all its steps, or None."""
        if not self._leaving or self._leaving[0][0] - self.steps > _ROUNDING_STEPS:
            return None
        _, _, context_tokens, member = heapq.heappop(self._leaving)
        self._context_tokens -= context_tokens
        if not self._leaving:
            self._context_tokens = 0.0  # what rounding left
        return member

    def step_s(self) -> float:
        """Return the seconds of the next step; 0.0 if nobody is here."""
        return self._timing.itl_s(len(self._leaving), self._context_tokens) if self._leaving else 0.0

    def next_done_s(self) -> float:
        """Return the seconds until a sequence is done; infinite if nobody is here."""
        if not self._leaving:
            return math.inf
        steps = max(0.0, self._leaving[0][0] - self.steps)
        growth_s = self._timing.context_token_s * len(self._leaving)
        return steps * (self.step_s() + growth_s * steps / 2.0)

    def advance(self, elapsed_s: float) -> None:
        """Let the batch run for `elapsed_s`, no longer than until a sequence is done."""
        if self._leaving and elapsed_s > 0.0:
            growth_s = self._timing.context_token_s * len(self._leaving)
            alpha_s = self.step_s()
            root_s = math.sqrt(alpha_s * alpha_s + 2.0 * growth_s * elapsed_s)
            self.step(2.0 * elapsed_s / (alpha_s + root_s))

    def step(self, steps: float = 1.0) -> None:
        """Let the batch make steps, whatever time they take."""
        self.steps += steps
        self._context_tokens += steps * len(self._leaving)
