"""What prompts and decodes do to one another on replicas that compute both, as far as this gateway knows.

Such a replica lets its decodes stand still for each prompt that it takes. So a request can bear so many
seconds of others' prompts, by its target of time per output token, and has to wait for those ahead of it. How
long a prompt takes is learnt from when first tokens come, since a gateway knows no profile.
"""

import math
from dataclasses import dataclass, replace

from orchestrator.core.types import Replica

_HALF_LIFE_S = 60.0
"""Of what is known of prompts, in seconds of computing them."""
_PACE_TOKENS = 4
_PACE_GROWTH = 1.02
"""The pace of undisturbed decoding is the best that was seen, forgotten by so much with each completion."""


@dataclass(slots=True, kw_only=True)
class _Request:
    """A request on a replica.

    Attributes:
        expected_tokens: Of its completion.
        spare_s: Seconds of others' prompts that it can still bear; below 0 it is late whatever comes.
        said_tokens: So far; until the first its prompt is ahead of others.
    """

    prompt_tokens: int
    expected_tokens: int
    tpot_s: float
    spare_s: float
    said_tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


class Unsplit:
    """Requests whose replica prefills and decodes them; `now_s` is of one monotonic clock."""

    def __init__(self) -> None:
        self._on: dict[str, dict[str, _Request]] = {}
        self._since_s: dict[str, float] = {}
        self._tokens = self._busy_s = 0.0
        self._pace_s = 0.0

    @property
    def rate_tokens_per_s(self) -> float:
        """Prompt tokens that a replica computes per second, 0.0 while unknown."""
        return self._tokens / self._busy_s if self._busy_s else 0.0

    def prompt_s(self, tokens: int) -> float:
        """Return how long a prompt takes, 0.0 while unknown."""
        return tokens / self.rate_tokens_per_s if self.rate_tokens_per_s else 0.0

    def seen(self, replica: Replica) -> Replica:
        """Return a replica with what prompts mean to it."""
        requests = self._on.get(replica.replica_id, {}).values()
        ahead = sum([each.prompt_tokens for each in requests if not each.said_tokens])
        spare_s = min([each.spare_s for each in requests if each.spare_s >= 0.0], default=math.inf)
        return replace(replica, prompts_s=self.prompt_s(ahead), spare_s=spare_s)

    def took(
        self,
        replica_id: str,
        job: str,
        *,
        prompt_tokens: int,
        expected_tokens: int,
        tpot_s: float,
        now_s: float,
    ) -> None:
        """A replica was given a request."""
        there = self._on.setdefault(replica_id, {})
        if all(each.said_tokens for each in there.values()):
            self._since_s[replica_id] = now_s
        prompt_s = self.prompt_s(prompt_tokens)
        for each in there.values():
            each.spare_s -= prompt_s
        there[job] = _Request(
            prompt_tokens=prompt_tokens,
            expected_tokens=expected_tokens,
            tpot_s=tpot_s,
            spare_s=self._bearable_s(tpot_s, expected_tokens - 1) if expected_tokens > 1 else math.inf,
        )

    def said(self, replica_id: str, job: str, tokens: int, now_s: float) -> None:
        """Tokens of a request have come."""
        request = self._on.get(replica_id, {}).get(job)
        if request is None or not tokens:
            return
        if not request.said_tokens:
            self._learn_rate(replica_id, request, now_s)
            request.first_s = now_s
        request.said_tokens, request.last_s = request.said_tokens + tokens, now_s
        # A completion longer than expected can bear more.
        if (more := request.said_tokens - request.expected_tokens) > 0:
            request.expected_tokens += more
            request.spare_s += self._bearable_s(request.tpot_s, more)

    def gone(self, replica_id: str, job: str, now_s: float) -> None:
        """A replica has a request no longer; nothing happens if it had none of that name."""
        there = self._on.get(replica_id, {})
        request = there.pop(job, None)
        if request is None:
            return
        if not request.said_tokens:
            self._since_s[replica_id] = now_s
        elif request.said_tokens > _PACE_TOKENS:
            self._learn_pace((request.last_s - request.first_s) / (request.said_tokens - 1))
        if not there:
            del self._on[replica_id], self._since_s[replica_id]

    def _bearable_s(self, tpot_s: float, tokens: int) -> float:
        return max(0.0, tpot_s - self._pace_s) * tokens

    def _learn_rate(self, replica_id: str, request: _Request, now_s: float) -> None:
        """Count a prompt as done in the time since there was none, or the one before was done."""
        busy_s = now_s - self._since_s[replica_id]
        self._since_s[replica_id] = now_s
        keep = 0.5 ** (busy_s / _HALF_LIFE_S)
        self._busy_s = keep * (self._busy_s + busy_s)
        self._tokens = keep * (self._tokens + request.prompt_tokens)

    def _learn_pace(self, tpot_s: float) -> None:
        self._pace_s = min(tpot_s, self._pace_s * _PACE_GROWTH) if self._pace_s else tpot_s
