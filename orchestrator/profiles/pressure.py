"""Pressure tests to processor seconds: what each process of a service spends on requests, hops and tokens.

Processor time is counted per process by the kernel, so it can be told apart however much the processes
compete. Each figure is a least-squares fit over tests that differ in images, prompt, completion and load.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from orchestrator.core.profile import SharedHost
from orchestrator.profiles.fit import Vector, least_squares
from stages.types import Stage

GATEWAY, STORE, CLIENT = "gateway", "redis", "client"
"""Names of processes, beside those of the stages."""

_SLOWNESS_POINTS = 20
_SHORT_TOKENS = 32
"""Prompts so short that a request is nearly all hops."""


class Row(NamedTuple):
    """One request of a test."""

    images: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """One test: requests of one shape, `concurrency` of them always in progress.

    Attributes:
        rows: The requests, in the order they were sent; images count in prompts.
        wall_s: In how many seconds.
        ttfts_s: Time to the first event of each request.
        tpot_s: Mean over requests with two tokens or more; 0.0 without any.
        events: Mean events with text in an answer.
        cpu_s: Processor seconds per request, by process.
    """

    rows: Sequence[Row]
    concurrency: int
    wall_s: float
    ttfts_s: Sequence[float]
    tpot_s: float
    events: float
    cpu_s: Mapping[str, float]

    @property
    def requests(self) -> int:
        """How many were answered."""
        return len(self.rows)

    @property
    def rate_per_s(self) -> float:
        """Requests answered per second."""
        return len(self.rows) / self.wall_s

    @property
    def images(self) -> float:
        """Mean of a request."""
        return fmean(row.images for row in self.rows)

    @property
    def prompt_tokens(self) -> float:
        """Mean of a request."""
        return fmean(row.prompt_tokens for row in self.rows)

    @property
    def output_tokens(self) -> float:
        """Mean of a request."""
        return fmean(row.output_tokens for row in self.rows)

    @property
    def ttft_s(self) -> float:
        """Mean."""
        return fmean(self.ttfts_s)

    @property
    def alone(self) -> bool:
        """Whether no request met another."""
        return self.concurrency == 1

    @property
    def hops(self) -> float:
        """Of one request."""
        return self.images + 2.0

    @property
    def steps(self) -> float:
        """Decode steps of one request."""
        return max(0.0, self.output_tokens - 1.0)

    @property
    def batch(self) -> float:
        """Mean sequences in a decode step, by Little's law; at least 1."""
        return max(1.0, self.rate_per_s * self.steps * self.tpot_s)

    @property
    def cores(self) -> float:
        """Processor seconds per second of all processes."""
        return sum(self.cpu_s.values()) * self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What processor time alone does not tell; see `SharedHost`."""

    cores: int
    slice_s: float
    seek: float
    stolen: float


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
