"""Pressure tests to processor seconds: what each process of a service spends on requests, hops and tokens.

Processor time is counted per process by the kernel, so it can be told apart however much the processes
compete. Each figure is a least-squares fit over tests that differ in images, prompt, completion and load.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.core.profile import SharedHost
from orchestrator.profiles.fit import Vector, least_squares
from orchestrator.profiles.pressure import CLIENT, GATEWAY, STORE, Machine, Pressure, Round
from stages.types import Stage

_SLOWNESS_POINTS = 20
_SHORT_TOKENS = 32
"""Prompts so short that a request is nearly all hops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Processor seconds of workers beside `SharedHost`.

    Attributes:
        image_s: Encode, for one image.
        prefill_step_s: Prefill, for a step, and `prefill_token_s` for each token in it.
        decode_step_s: Decode, for a step with its write; `sequence_s` for each sequence in it, and
            `context_token_s` for each token of their caches.
    """

    image_s: float
    prefill_step_s: float
    prefill_token_s: float
    decode_step_s: float
    sequence_s: float
    context_token_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """All constants that explain some tests."""

    stages: StageCosts
    host: SharedHost
    chunk_tokens: int

    def hop_s(self, stage: Stage) -> float:
        """Return a worker's seconds for a hop."""
        return self.host.worker_hop_s[stage]

    def chunk_s(self, tokens: int) -> float:
        """Return the seconds of a prefill step."""
        return self.stages.prefill_step_s + tokens * self.stages.prefill_token_s

    def prefill_s(self, tokens: int) -> float:
        """Return the seconds of a prefill replica for a prompt alone."""
        steps = -(-tokens // self.chunk_tokens)
        work_s = steps * self.stages.prefill_step_s + tokens * self.stages.prefill_token_s
        return self.hop_s(Stage.PREFILL) + work_s

    def itl_s(self, sequences: int, context_tokens: int) -> float:
        """Return the seconds of a decode step of sequences with so much context each."""
        costs = self.stages
        each_s = costs.sequence_s + context_tokens * costs.context_token_s
        return costs.decode_step_s + sequences * each_s

    def decode_s(self, steps: int, sequences: int, context_tokens: int) -> float:
        """Return the seconds of a decode replica for one completion, of so many at once."""
        return self.hop_s(Stage.DECODE) + steps * self.itl_s(sequences, context_tokens) / sequences


def fitted(rounds: Sequence[Round], chunk_tokens: int, machine: Machine) -> Fit:
    """Return the constants that fit all tests of these rounds best."""
    tests = [test for each in rounds for test in each.tests]
    costs, _ = stage_costs(tests, chunk_tokens)
    return Fit(stages=costs, host=shared_host(tests, machine, chunk_tokens), chunk_tokens=chunk_tokens)


def stage_costs(tests: Sequence[Pressure], chunk_tokens: int) -> tuple[StageCosts, Mapping[Stage, float]]:
    """Return the costs of work in each stage and, by stage, those of a hop beside it."""
    pictured = [t for t in tests if t.images]
    (image_s,) = _fit([((float(t.images),), t.cpu_s[Stage.ENCODE]) for t in pictured])
    prompts = [t for t in tests if t.alone and t.output_tokens < 2.0]
    prefill = _fit([(_prefill_features(t, chunk_tokens), t.cpu_s[Stage.PREFILL]) for t in prompts])
    decode = _fit([(_decode_features(t), t.cpu_s[Stage.DECODE]) for t in tests])
    costs = StageCosts(
        image_s=image_s,
        prefill_step_s=prefill[1],
        prefill_token_s=prefill[2],
        decode_step_s=decode[1],
        sequence_s=decode[2],
        context_token_s=decode[3],
    )
    return costs, {Stage.ENCODE: 0.0, Stage.PREFILL: prefill[0], Stage.DECODE: decode[0]}


def shared_host(tests: Sequence[Pressure], machine: Machine, chunk_tokens: int) -> SharedHost:
    """Return the machine that explains the tests.

    Args:
        tests: Of requests of one shape each; some alone, some not.
        machine: What is known of it.
        chunk_tokens: Prompt tokens of a prefill step at most.
    """
    _, worker_hop_s = stage_costs(tests, chunk_tokens)
    busy = [t for t in tests if not t.alone]
    alone = [t for t in tests if t.alone]
    gateway = _fit([((1.0, t.hops, t.events), t.cpu_s[GATEWAY]) for t in busy])
    store = _fit([((t.hops, _writes(t)), t.cpu_s[STORE]) for t in busy])
    wake_s = _asleep(
        [(t.hops + t.events, t.cpu_s[GATEWAY] - _dot(gateway, (1.0, t.hops, t.events))) for t in alone]
    )
    store_wake_s = _asleep(
        [(2.0 * t.hops + t.events, t.cpu_s[STORE] - _dot(store, (t.hops, _writes(t)))) for t in alone]
    )
    client = _fit([((1.0, t.events), t.cpu_s[CLIENT]) for t in tests])
    return SharedHost(
        cores=machine.cores,
        slice_s=machine.slice_s,
        seek=machine.seek,
        stolen=machine.stolen,
        request_s=gateway[0],
        hop_s=gateway[1],
        event_s=gateway[2],
        store_hop_s=store[0],
        store_write_s=store[1],
        worker_hop_s=worker_hop_s,
        client_request_s=client[0],
        client_event_s=client[1],
        late=_late(alone, gateway[1], worker_hop_s),
        wake_s=wake_s,
        store_wake_s=store_wake_s,
        slowness=slowness(t for t in alone if t.output_tokens < 2.0),
    )


def slowness(tests: Iterable[Pressure]) -> tuple[float, ...]:
    """Return equally likely factors on all times, of mean 1, ascending: how unevenly lone requests run."""
    factors = sorted(ttft_s / test.ttft_s for test in tests for ttft_s in test.ttfts_s)
    at = [(i + 0.5) / _SLOWNESS_POINTS for i in range(_SLOWNESS_POINTS)]
    points = [factors[min(len(factors) - 1, int(place * len(factors)))] for place in at]
    return tuple(point / fmean(points) for point in points)


def _late(alone: Sequence[Pressure], hop_s: float, worker_hop_s: Mapping[Stage, float]) -> float:
    """Return the part of a hop's cost that comes after its answer: what nobody was seen to wait for."""
    shares = []
    for test in alone:
        if test.output_tokens < 2.0 and test.images <= 1 and test.prompt_tokens <= _SHORT_TOKENS:
            unseen_s = sum(test.cpu_s.values()) - test.ttft_s
            hops = worker_hop_s[Stage.PREFILL] + worker_hop_s[Stage.DECODE] + (test.hops - 1) * hop_s / 2.0
            shares.append(unseen_s / hops)
    return min(0.9, max(0.0, fmean(shares)))


def _asleep(tests: Sequence[tuple[float, float]]) -> float:
    """Return the cost of a wake, from the wakes of lone requests and their costs beyond those in a crowd."""
    wakes = sum(count for count, _ in tests)
    return max(0.0, sum(beyond_s for _, beyond_s in tests) / wakes)


def _prefill_features(test: Pressure, chunk_tokens: int) -> Vector:
    return (1.0, -(-test.prompt_tokens // chunk_tokens), test.prompt_tokens)


def _decode_features(test: Pressure) -> Vector:
    context = test.prompt_tokens + test.output_tokens / 2.0
    return (1.0, test.steps / test.batch, test.steps, test.steps * context)


def _writes(test: Pressure) -> float:
    return 1.0 + test.steps / test.batch


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _fit(rows: Sequence[tuple[Vector, float]]) -> Vector:
    return least_squares([features for features, _ in rows], [value for _, value in rows])
