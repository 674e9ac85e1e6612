"""What a streamed answer says of its request: when tokens came, and how many."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cli.pressure.sse import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One answered request; seconds are monotonic.

    Attributes:
        first_s: When its first text came; `last_s` its last.
        events: Events with text.
    """

    sent_s: float
    first_s: float
    last_s: float
    events: int
    prompt_tokens: int
    output_tokens: int

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; 0.0 for one token."""
        return (self.last_s - self.first_s) / max(1, self.output_tokens - 1)


def timed(sent_s: float, answer: Answer) -> Timed:
    """Read an answer.

    Raises:
        ValueError: It breaks off.
    """
    texts: list[float] = []
    usage: dict[str, int] = {}
    for read_s, event in _events(answer):
        usage = event.get("usage") or usage
        if event["choices"] and event["choices"][0]["delta"].get("content"):
            texts.append(read_s)
    if not usage:
        raise ValueError(f"an answer that breaks off: {answer.body[-300:]!r}")
    # A completion may consist of a token that has no text.
    texts = texts or [answer.reads[0][0]]
    return Timed(
        sent_s=sent_s,
        first_s=texts[0],
        last_s=texts[-1],
        events=len(texts),
        prompt_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
    )


def _events(answer: Answer) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield the events, each with the second at which its end was read."""
    rest = b""
    for read_s, data in answer.reads:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b'data: {"'):
                yield read_s, json.loads(line[6:])
