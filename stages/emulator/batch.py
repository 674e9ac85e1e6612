"""Continuous batching: which requests the next step works on, and what it makes of them.

As in the simulator (`orchestrator.simulator.step_engine`), a step takes one image or a chunk of prompts, and
every sequence that decodes makes a token in it. Requests are let in, first come, first served, when there is
room for their whole prompt; if blocks run out in the midst of decoding, the youngest starts over, as in vLLM.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from stages.emulator.blocks import BlockPool
from stages.emulator.config import EngineTiming
from stages.emulator.sequence import Phase, Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """What one step does.

    Attributes:
        encoding: Whose next image is encoded.
        chunk: Whose prompts are computed, and how many tokens of each.
        decoding: Who makes a token.
    """

    encoding: Sequence | None = None
    chunk: list[tuple[Sequence, int]] = field(default_factory=list)
    decoding: list[Sequence] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts in it."""
        return sum(tokens for _, tokens in self.chunk)

    def seconds(self, timing: EngineTiming) -> float:
        """Return how long it takes; weights are read once, whatever is in it."""
        other_s = (
            timing.image_s if self.encoding else timing.prefill_s(self.prompt_tokens) if self.chunk else 0.0
        )
        if not self.decoding:
            return other_s
        together_s = timing.decode_s(len(self.decoding), sum(sequence.length for sequence in self.decoding))
        return other_s + together_s - timing.decode_s(0, 0) if other_s else together_s


class Batch:
    """The requests of one engine.

    Attributes:
        waiting: In front of it, in order.
        preemptions: Requests that had to start over so far.

    Args:
        pool: The KV cache; None if the engine has none.
        max_seqs: Requests at work at once.
        chunk_tokens: Prompt tokens in a step at most.
        admitted: Hears of each request that comes in, whose blocks it has; sets its phase by `begin`.
    """

    def __init__(
        self, pool: BlockPool | None, max_seqs: int, chunk_tokens: int, admitted: Callable[[Sequence], None]
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.preemptions = 0
        self._pool = pool
        self._max_seqs = max_seqs
        self._chunk_tokens = chunk_tokens
        self._admitted = admitted
        # By phase, in the order in which they entered it.
        self._at_work: dict[Phase, dict[Sequence, None]] = {
            phase: {} for phase in (Phase.FETCHING, Phase.ENCODING, Phase.PREFILLING, Phase.DECODING)
        }

    def count(self, phase: Phase) -> int:
        """Return how many are at work in a phase."""
        return len(self._at_work[phase])

    @property
    def running(self) -> int:
        """Requests that are at work on this engine itself."""
        return sum(map(self.count, (Phase.ENCODING, Phase.PREFILLING, Phase.DECODING)))

    def add(self, sequence: Sequence) -> None:
        """Let a request wait."""
        self.waiting.append(sequence)

    def begin(self, sequence: Sequence, phase: Phase) -> None:
        """Move a request to a phase of its work."""
        self._leave(sequence)
        sequence.phase = phase
        self._at_work[phase][sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """Take a request out; its blocks stay with it."""
        if sequence.phase is Phase.WAITING:
            self.waiting.remove(sequence)
        self._leave(sequence)

    def plan(self) -> Step | None:
        """Return the next step, None if there is nothing to do."""
        self._let_in()
        encoding = next(iter(self._at_work[Phase.ENCODING]), None)
        decoding = self._with_room()
        chunk = [] if encoding else self._chunk()
        return Step(encoding, chunk, decoding) if encoding or chunk or decoding else None

    def _let_in(self) -> None:
        while self.waiting and self._room_for(self.waiting[0]):
            self._admitted(self.waiting.popleft())

    def _room_for(self, sequence: Sequence) -> bool:
        at_work = sum(map(len, self._at_work.values()))
        return at_work < self._max_seqs and self._grow(sequence)

    def _grow(self, sequence: Sequence) -> bool:
        return self._pool is None or self._pool.grow(sequence.blocks, sequence.length)

    def _with_room(self) -> list[Sequence]:
        """Return who can make a token: whoever has a place for the last one, which is computed now."""
        able = []
        for sequence in list(self._at_work[Phase.DECODING]):
            while sequence.phase is Phase.DECODING and not self._grow(sequence):
                self._preempt()
            if sequence.phase is Phase.DECODING:
                able.append(sequence)
        return [sequence for sequence in able if sequence.phase is Phase.DECODING]

    def _preempt(self) -> None:
        """Let the youngest start over: its blocks go to the others, and it is computed anew."""
        youngest = next(reversed(self._at_work[Phase.DECODING]))
        self._leave(youngest)
        assert self._pool
        self._pool.release(youngest.blocks)
        youngest.phase, youngest.computed = Phase.WAITING, 0
        self.waiting.appendleft(youngest)
        self.preemptions += 1

    def _chunk(self) -> list[tuple[Sequence, int]]:
        chunk, left = [], self._chunk_tokens
        for sequence in self._at_work[Phase.PREFILLING]:
            tokens = min(left, sequence.length - sequence.computed)
            chunk.append((sequence, tokens))
            left -= tokens
            if not left:
                break
        return chunk

    def _leave(self, sequence: Sequence) -> None:
        if at_work := self._at_work.get(sequence.phase):
            at_work.pop(sequence, None)
