"""Simulated engines against closed forms and against themselves token by token."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.clock import Clock
from orchestrator.simulator.decode_batch import DecodeBatch
from orchestrator.simulator.decode_engine import DecodeEngine
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.step_engine import StepEngine
from tests.orchestrator.simulator.queues import (
    DECODE,
    poisson,
    request,
    waits_in_a_pool,
    waits_of_images,
    waits_of_prompts,
)


def test_images_wait_as_in_m_d_1():
    """Mean wait rho·S / (2·(1 − rho)) within 3 % (Pollaczek and Khinchine, no variance)."""
    rho, image_s = 0.8, 0.5
    arrivals = poisson(rho / image_s, 400_000, np.random.default_rng(1))
    assert waits_of_images(arrivals, image_s) == pytest.approx(rho * image_s / (2 * (1 - rho)), rel=0.03)


def test_prompts_wait_as_in_m_g_1():
    """Mean wait lambda·E(S²) / (2·(1 − rho)) within 3 %, with sizes from 1 to 19."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 20, 150_000)
    rate = 0.7 / 10.0
    expected = rate * float(np.mean(np.arange(1, 20) ** 2)) / (2 * (1 - 0.7))
    assert waits_of_prompts(poisson(rate, len(sizes), rng), sizes.tolist()) == pytest.approx(
        expected, rel=0.03
    )


def test_prompts_wait_for_a_pool_as_in_m_m_c():
    """Mean wait ErlangC(c, a)·S / (c − a) within 3 %: four replicas, exponential prompts, one queue."""
    replicas, offered, mean_tokens = 4, 2.8, 2_000
    rng = np.random.default_rng(3)
    tokens = np.maximum(1, np.rint(rng.exponential(mean_tokens, 100_000))).astype(int)
    service_s = float(np.mean(tokens)) / 1_000.0
    arrivals = poisson(offered / service_s, len(tokens), rng)
    expected = erlang_c(replicas, offered) * service_s / (replicas - offered)
    assert waits_in_a_pool(arrivals, tokens.tolist(), replicas) == pytest.approx(expected, rel=0.03)


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that an arrival waits in M/M/c."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@given(
    st.lists(st.tuples(st.integers(1, 4_000), st.integers(1, 300)), min_size=1, max_size=12),
)
def test_closed_form_decode_is_the_sum_of_its_steps(sequences):
    """A batch in closed form ends within a step of one that is stepped token by token."""
    batch: DecodeBatch[int] = DecodeBatch(DECODE)
    for index, (context, steps) in enumerate(sequences):
        batch.join(index, context, steps)
    closed = {}
    now_s = 0.0
    while len(batch):
        delay_s = batch.next_done_s()
        batch.advance(delay_s)
        now_s += delay_s
        while (member := batch.pop_done()) is not None:
            closed[member] = now_s
    stepped = _by_steps(sequences)
    for index, end_s in stepped.items():
        assert closed[index] == pytest.approx(end_s, rel=0.01, abs=0.02)


def _by_steps(sequences):
    left = {index: [context, steps] for index, (context, steps) in enumerate(sequences)}
    now_s, ends = 0.0, {}
    while left:
        now_s += DECODE.itl_s(len(left), sum(context for context, _ in left.values()))
        for index, state in list(left.items()):
            state[0] += 1
            state[1] -= 1
            if not state[1]:
                ends[index] = now_s
                del left[index]
    return ends


def test_a_join_slows_a_running_decode():
    """Continuous batching: whoever joins makes every step longer for all."""
    alone, joined = _decode_end_s(1), _decode_end_s(2)
    assert alone == pytest.approx(100 * DECODE.itl_s(1, 550), rel=0.01)
    assert joined > alone


def _decode_end_s(sequences: int) -> float:
    clock, ends = Clock(), []
    engine = DecodeEngine(
        clock, Milestones(prefilled=lambda hop: None, done=lambda hop: ends.append(clock.now_s)), DECODE
    )
    for index in range(sequences):
        engine.submit(Hop(request(index), tokens=100, steps=100, context_tokens=500))
    clock.run_all()
    assert len(ends) == sequences
    return max(ends)


def test_prefill_beside_decode_stalls_it():
    """Interference: in one replica a token waits for the whole step that also holds a prompt's chunk."""
    apart, together = _token_time_s(prompts=0), _token_time_s(prompts=5)
    assert together > 1.5 * apart


def _token_time_s(prompts: int) -> float:
    from orchestrator.core.profile import PrefillTiming

    clock, ends = Clock(), {}
    engine = StepEngine(
        clock,
        Milestones(
            prefilled=lambda hop: None, done=lambda hop: ends.setdefault(hop.request.index, clock.now_s)
        ),
        PrefillTiming(points=((1000, 0.1),), floor_s=0.01),
        1000,
        decode=DECODE,
    )
    engine.submit(Hop(request(0), tokens=1, prompt_tokens=1, steps=50, context_tokens=10))
    for index in range(prompts):
        engine.submit(Hop(request(index + 1), tokens=2000, prompt_tokens=2000))
    clock.run_all()
    assert len(ends) == prompts + 1
    return ends[0] / 50


def test_nobody_decodes_for_ever():
    assert math.isinf(DecodeBatch(DECODE).next_done_s())
