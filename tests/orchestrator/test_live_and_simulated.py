"""What control sees of a service does not depend on whether it is served or simulated."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.core.observed import ReplicaState
from orchestrator.counting import Counting
from orchestrator.policy import load_policy
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.workload import PrefixBlocks
from stages.types import Stage
from tests.orchestrator.recording import record
from tests.orchestrator.replay import Replay
from tests.orchestrator.simulator.test_simulate import POLICY, TRACE

REQUESTS = 450
COLUMNS = ("arrival_s", "images", "context_tokens", "output_tokens")
MODEL = "OpenGVLab/InternVL2_5-26B"


@pytest.fixture(scope="module")
def log():
    """A burst: waits, refusals, replicas that are asked for, images and prefixes that come again."""
    subject = load_subject(POLICY, TRACE, rate_scale=10.0)
    work, index = subject.workload, np.arange(REQUESTS)
    with_images = np.cumsum(work.images[:REQUESTS] > 0)
    head = replace(
        work,
        **{name: getattr(work, name)[:REQUESTS] for name in COLUMNS},
        content_ids=with_images // 2,
        prefix_blocks=PrefixBlocks(
            offsets=np.arange(REQUESTS + 1), ids=(index % 40).astype(np.int32), block_tokens=16
        ),
    )
    with pytest.MonkeyPatch.context() as patched:
        return record(patched, replace(subject, workload=head).scenario())


def replayed(monkeypatch, log):
    """Return (simulated, live) snapshots, one pair for each tick up to the first that differ."""
    replay = Replay(monkeypatch, load_policy(POLICY), MODEL)

    async def run():
        pairs = []
        async with aclosing(replay.run(log)) as ticks:
            async for pair in ticks:
                pairs.append(pair)
                if pair[0] != pair[1]:
                    break
        return pairs

    return asyncio.run(run())


def test_a_recorded_log_gives_the_gateway_the_snapshots_of_the_simulator(monkeypatch, log):
    """At every tick and exactly, though one comes of models and the other of what a gateway published."""
    pairs = replayed(monkeypatch, log)
    assert len(pairs) > 5
    for simulated, live in pairs:
        assert live == simulated


def test_the_log_has_what_can_go_wrong(log):
    """Every stage works, waits and finds things in caches; requests are refused, and replicas start."""
    snapshots = [event.more[0] for event in log.events if event.what == "tick"]
    samples = [sample for snapshot in snapshots for sample in snapshot.services.values()]
    assert log.endings
    assert set(log.endings) == {Ending.REFUSED}
    assert all(samples[-1].stages[stage].done_units and samples[-1].stages[stage].busy_s for stage in Stage)
    assert max(sample.stages[Stage.ENCODE].waiting_jobs for sample in samples) > 50
    assert 0 < samples[-1].image_hit_tokens < samples[-1].image_tokens
    assert 0 < samples[-1].prompt_hit_tokens < samples[-1].prompt_tokens
    assert max(sample.stages[Stage.DECODE].kv_usage for sample in samples) > 0.0
    assert any(r.state is ReplicaState.STARTING for snapshot in snapshots for r in snapshot.replicas)


@pytest.mark.parametrize("deaf_to", ["offered", "waited", "did", "first_token", "completed", "ended"])
def test_a_gateway_that_forgot_to_count_something_would_be_found_out(monkeypatch, log, deaf_to):
    monkeypatch.setattr(Counting, deaf_to, lambda self, *args, **options: None)
    simulated, live = replayed(monkeypatch, log)[-1]
    assert live != simulated
