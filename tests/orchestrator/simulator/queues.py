"""Small stations to hold against closed forms."""

import numpy as np

from orchestrator.core.profile import DecodeTiming, PrefillTiming
from orchestrator.core.types import StageTag
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engines import EncodeEngine, Milestones, StepEngine
from orchestrator.simulator.hop import Hop, Request
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
        Milestones(prefilled=lambda hop: None, first=lambda hop: None, done=done),
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
        Milestones(prefilled=lambda hop: None, first=lambda hop: None, done=done),
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
