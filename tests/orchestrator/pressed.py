"""Pressure tests of a machine whose costs are known, without noise."""

from orchestrator.profiles.measured import Measured
from orchestrator.profiles.pressure import CLIENT, GATEWAY, STORE, Machine, Pressure, Round, Row
from stages.types import Stage

CHUNK_TOKENS = 64
MACHINE = Machine(cores=2, slice_s=0.01, seek=0.5, stolen=0.1)
REQUEST_S, HOP_S, EVENT_S, WAKE_S = 0.4e-3, 0.5e-3, 0.05e-3, 0.1e-3
STORE_HOP_S, WRITE_S, STORE_WAKE_S = 0.2e-3, 0.08e-3, 0.02e-3
IMAGE_S = 2.5e-3
PREFILL_HOP_S, CHUNK_S, TOKEN_S = 1.0e-3, 0.6e-3, 0.03e-3
DECODE_HOP_S, STEP_S, SEQUENCE_S, CONTEXT_S = 1.2e-3, 0.6e-3, 0.1e-3, 0.4e-6
TPOT_S = 2e-3


def pressed(
    images: int, prompt_tokens: int, output_tokens: int, concurrency: int, factor: float = 1.0
) -> Pressure:
    """Return a test as it would come out; `factor` makes every process that much slower."""
    steps = output_tokens - 1
    batch = 1.0 if concurrency == 1 else concurrency / 2.0
    # So that Little's law finds the batch.
    rate_per_s = batch / (steps * TPOT_S) if steps else 100.0
    requests = 20
    alone, hops = concurrency == 1, images + 2
    events = 1.0 + steps / batch
    context = prompt_tokens + output_tokens / 2.0
    cpu_s = {
        GATEWAY: REQUEST_S + HOP_S * hops + EVENT_S * events + alone * WAKE_S * (hops + events),
        STORE: STORE_HOP_S * hops
        + WRITE_S * (1.0 + steps / batch)
        + alone * STORE_WAKE_S * (2 * hops + events),
        CLIENT: 0.1e-3 + 0.01e-3 * events,
        Stage.ENCODE: IMAGE_S * images,
        Stage.PREFILL: PREFILL_HOP_S + -(-prompt_tokens // CHUNK_TOKENS) * CHUNK_S + prompt_tokens * TOKEN_S,
        Stage.DECODE: DECODE_HOP_S + steps / batch * STEP_S + steps * (SEQUENCE_S + context * CONTEXT_S),
    }
    cpu_s = {process: factor * seconds for process, seconds in cpu_s.items()}
    return Pressure(
        rows=(Row(images, prompt_tokens, output_tokens),) * requests,
        concurrency=concurrency,
        wall_s=requests / rate_per_s,
        ttfts_s=(0.9 * sum(cpu_s.values()), 1.1 * sum(cpu_s.values())) * (requests // 2),
        tpot_s=TPOT_S if steps else 0.0,
        events=events,
        cpu_s=cpu_s,
    )


def round_of(factor: float = 1.0) -> Round:
    """Return a round of tests."""
    short = [(images, 9 + 9 * images, 1) for images in (0, 1, 4)]
    prompts = [(0, tokens, 1) for tokens in (60, 121, 241)]
    tests = [pressed(*shape, at, factor) for shape in short + prompts for at in (1, 16)]
    tests += [pressed(0, 49, 200, at, factor) for at in (1, 2, 4, 8, 16, 32)]
    tests += [pressed(0, 300, 200, at, factor) for at in (1, 16)]
    return Round(tests=tests, mixed=[pressed(1, 80, 22, at, factor) for at in (2, 16)])


def measured(*factors: float) -> Measured:
    """Return rounds of tests on machines that are so many times as slow."""
    return Measured(
        rounds=[round_of(factor) for factor in factors],
        machine=MACHINE,
        machines=[MACHINE] * len(factors),
        hardware="cpu",
        chunk_tokens=CHUNK_TOKENS,
        starts_s={stage: [0.8, 1.0] for stage in Stage},
        how="made up",
        date="2026-11-25",
    )
