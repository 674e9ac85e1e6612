"""Small stations to hold against closed forms."""

from collections.abc import Callable
from functools import partial

import numpy as np

from orchestrator.core.observed import ReplicaState
from orchestrator.core.profile import DecodeTiming, PrefillTiming
from orchestrator.core.types import StageTag
from orchestrator.core.waiting import WaitingParams
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.encode_engine import EncodeEngine
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.hop import Hop, Request
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.replica import SimReplica
from orchestrator.simulator.step_engine import StepEngine
from stages.types import Modality, Stage


def request(index: int = 0, output_tokens: int = 1) -> Request:
    tagged = StageTag(
        modalities=frozenset({Modality.TEXT}),
        stages=tuple(Stage),
        item_tokens=(),
        prefill_tokens=1,
        context_tokens=1,
        output_tokens=output_tokens,
    )
    return Request(index, tagged, output_tokens, 0.0, 1e9, 1e9)


def poisson(rate: float, jobs: int, rng: np.random.Generator) -> list[float]:
    return np.cumsum(rng.exponential(1.0 / rate, jobs)).tolist()


def waits_of_prompts(arrivals: list[float], tokens: list[int]) -> float:
    """Send prompts, whole, through one prefill engine at a token a second; return the mean wait."""
    clock, waited = Clock(), []
    begun: dict[int, float] = {}

    def done(hop: Hop) -> None:
        waited.append(clock.now_s - begun[hop.request.index] - tokens[hop.request.index])

    engine = StepEngine(
        clock,
        Milestones(prefilled=lambda hop: None, done=done),
        PrefillTiming(points=((1, 1.0), (1_000_000, 1_000_000.0)), floor_s=0.0),
        1_000_000,
        sequences=1,
    )
    for index, (at_s, size) in enumerate(zip(arrivals, tokens, strict=True)):
        clock.run_until(at_s)
        begun[index] = at_s
        engine.submit(Hop(request(index), tokens=size, prompt_tokens=size))
    clock.run_all()
    return float(np.mean(waited))


def waits_of_images(arrivals: list[float], image_s: float) -> float:
    """Send images through one encoder without preparation; return the mean wait."""
    clock, waited = Clock(), []
    begun: dict[int, float] = {}

    def done(hop: Hop) -> None:
        waited.append(clock.now_s - begun[hop.request.index] - image_s)

    engine = EncodeEngine(
        clock,
        Milestones(prefilled=lambda hop: None, done=done),
        image_s=image_s,
        preprocess_s=0.0,
        cores=1,
    )
    for index, at_s in enumerate(arrivals):
        clock.run_until(at_s)
        begun[index] = at_s
        engine.submit(Hop(request(index), tokens=1, images=1))
    clock.run_all()
    return float(np.mean(waited))


DECODE = DecodeTiming(step_s=0.01, sequence_s=0.001, context_token_s=1e-6)


def waits_in_a_pool(arrivals: list[float], tokens: list[int], replicas: int) -> float:
    """Send prompts through a pool of prefill replicas with a slot each, at 1,000 tokens a second.

    They wait in the pool's queue and are routed as in a service; return the mean wait.
    """
    clock, waited = Clock(), []
    params = WaitingParams(ttft_s=1.0, stretch=0.0, age_s=1.0, priority_s=0.0)
    pool = Pool((Stage.PREFILL,), "m", {"pending_tokens": 1.0}, params)

    def dispatch() -> None:
        while (placed := pool.pop_placeable(lambda hop: ())) is not None:
            hop, replica, _ = placed
            waited.append(clock.now_s - hop.queued_s)
            replica.take(hop)
            replica.engine.submit(hop)

    def done(replica: SimReplica, hop: Hop) -> None:
        replica.give_back(hop)
        dispatch()

    def engine(replica: SimReplica) -> StepEngine:
        milestones = Milestones(prefilled=lambda hop: None, done=partial(done, replica))
        timing = PrefillTiming(points=((1_000, 1.0), (1_000_000, 1_000.0)), floor_s=0.0)
        return StepEngine(clock, milestones, timing, 1_000_000)

    pool.replicas += [_replica(f"p-{number}", engine) for number in range(replicas)]
    for index, (at_s, size) in enumerate(zip(arrivals, tokens, strict=True)):
        clock.run_until(at_s)
        came = request(index)
        came.arrival_s, came.due_s = at_s, at_s + 1.0
        pool.push([Hop(came, tokens=size, prompt_tokens=size)], 0.0, at_s)
        dispatch()
    clock.run_all()
    assert len(waited) == len(arrivals)
    return float(np.mean(waited))


def _replica(name: str, engine: Callable[[SimReplica], StepEngine]) -> SimReplica:
    replica = SimReplica(
        name,
        "s",
        "m",
        Stage.PREFILL,
        engine=engine,
        hardware="a100",
        tp=1,
        node_id="n",
        domain=(),
        group="",
        slots=1,
        total_kv_bytes=1 << 40,
        now_s=0.0,
    )
    replica.enter(ReplicaState.READY, 0.0)
    return replica
