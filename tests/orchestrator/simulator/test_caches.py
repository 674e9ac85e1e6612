"""Caches of replicas: what repeats is found while there is room, and what does not costs nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.caches import EmbeddingCache, PrefixPages
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.content import Content
from orchestrator.simulator.encode_engine import EncodeEngine
from orchestrator.simulator.engine import Milestones
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.run import simulate
from orchestrator.simulator.scenario import load_subject
from orchestrator.simulator.summary import summarise
from tests.orchestrator.simulator.queues import request

ROOT = Path(__file__).parents[3]
POLICY = ROOT / "policies/internvl-26b.yaml"
MOONCAKE = ROOT / "data/traces/mooncake_conversation_trace.jsonl.gz"
FEW = StaticParams(encode=2, prefill=4, decode=8)


@pytest.mark.parametrize(
    ("room", "found"),
    [
        pytest.param(0, "......", id="no-room"),
        pytest.param(1, "......", id="one"),
        pytest.param(2, "..A...", id="the-least-recent-goes"),
        pytest.param(3, "..A.BA", id="all"),
    ],
)
def test_hits_of_a_known_sequence(room, found):
    """A B A C B A with room for so many: a dot is a miss."""
    cache, seen = EmbeddingCache(room), ""
    for image in "ABACBA":
        seen += "." if cache.find(image) is None else image
        cache.hold(image, 0.0)
    assert seen == found


def test_a_cached_image_is_there_at_once_and_one_in_progress_is_waited_for():
    """One second an image: the first ends at 1 s, its twin of 0.5 s with it, and a later one at once."""
    ends = []
    clock = Clock()
    done = Milestones(
        prefilled=lambda hop: None, done=lambda hop: ends.append((hop.request.index, clock.now_s))
    )
    engine = EncodeEngine(clock, done, image_s=1.0, preprocess_s=0.0, cores=1, cached_images=4)
    for index, (at_s, image) in enumerate([(0.0, "a"), (0.5, "a"), (2.0, "a"), (2.0, "b")]):
        clock.run_until(at_s)
        engine.submit(Hop(request(index), tokens=1, images=1, content=image))
    clock.run_all()
    assert ends == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert engine.busy_s() == 2.0


def test_a_prefix_is_found_as_far_as_it_is_held():
    pages = PrefixPages()
    pages.store([1, 2, 3, 4], room=10)
    assert [pages.match(blocks) for blocks in ([1, 2, 9], [9, 2], [1, 2, 3, 4, 5])] == [2, 0, 4]


def test_the_end_of_a_prefix_goes_before_its_beginning():
    """A block is worth nothing without those before it."""
    pages = PrefixPages()
    pages.store([1, 2, 3, 4], room=10)
    pages.fit(2)
    assert pages.match([1, 2, 3, 4]) == 2


@given(st.lists(st.lists(st.integers(0, 20), max_size=8, unique=True), max_size=20), st.integers(-1, 12))
def test_pages_keep_to_their_room(prompts, room):
    pages = PrefixPages()
    for prompt in prompts:
        pages.store(prompt, room)
        assert len(pages) <= max(0, room)
        assert pages.match(prompt) >= min(len(prompt), max(0, room))


def mooncake(requests):
    subject = load_subject(POLICY, MOONCAKE)
    work = subject.workload
    return replace(subject, workload=work.slice(0.0, float(work.arrival_s[requests])))


def ideal_hits(work):
    """Return the fraction of prompt tokens that one cache without bounds would supply."""
    seen, hits = set(), 0
    for index, tokens in enumerate(work.context_tokens.tolist()):
        blocks = work.prefix_blocks.of(index).tolist()
        for block in blocks[: (tokens - 1) // 512]:
            if block not in seen:
                break
            hits += 512
        seen.update(blocks[: tokens // 512])
    return hits / int(work.context_tokens.sum())


def test_prefixes_of_a_trace_are_found_as_far_as_caches_and_routing_allow():
    """Four replicas find at least a third of what one endless cache would find, and no more than all."""
    subject = mooncake(1_500)
    summary = summarise(simulate(subject.scenario(scaling="static", params=FEW)))
    ideal = ideal_hits(subject.workload)
    assert ideal / 3 < summary.prefix_hits <= ideal
    assert summary.embedding_hits == 0.0


def test_what_a_cache_supplies_prefill_does_not_compute():
    """The same prompts without names of blocks keep prefill busy for longer."""
    subject = mooncake(600)
    new = replace(subject, workload=replace(subject.workload, prefix_blocks=None))
    busy_s = [
        simulate(each.scenario(scaling="static", params=FEW)).only.busy_s["prefill"]
        for each in (subject, new)
    ]
    assert busy_s[0] < 0.95 * busy_s[1]


def azure(content_ids):
    subject = load_subject(POLICY, ROOT / "data/traces/azure_lmm_window_2024-10-16.csv")
    work = subject.workload.slice(0.0, 120.0)
    ids = None if content_ids is None else content_ids(len(work))
    return replace(subject, workload=replace(work, content_ids=ids))


def test_a_trace_without_contents_has_no_hits():
    summary = summarise(simulate(azure(None).scenario()))
    assert (summary.embedding_hits, summary.prefix_hits) == (0.0, 0.0)


@pytest.mark.parametrize(("system", "hits"), [("e-p-d", 0.5), ("ep-d", 0.4), ("monolith-least-work", 0.2)])
def test_images_that_come_again_are_not_encoded_again(system, hits):
    """Ten sets of images in turn. Nothing leads a request to the monolith that has its images."""
    subject = azure(lambda count: np.arange(count) % 10)
    scenario = subject.scenario(scaling="static", params=FEW)
    if system != "e-p-d":
        scenario = merged(scenario, system)
    summary = summarise(simulate(scenario))
    assert hits < summary.embedding_hits < 1.0
    assert summary.endings["answered"] == len(subject.workload)


def merged(scenario, system):
    """Put all stages on four-way A100s, and the first replicas of encode away if it has none of its own."""
    tenant = scenario.only
    stages = {s: replace(b, hardware=("a100",), tp=4) for s, b in tenant.control.stages.items()}
    creates = [replace(c, hardware="a100", tp=4, domain=()) for c in scenario.first.create]
    if system.startswith("monolith"):
        creates = [replace(c, stage="encode") for c in creates]
    control = replace(tenant.control, stages=stages)
    tenant = replace(tenant, control=control, links=tenant.links[-1:], system=system)
    first = replace(scenario.first, create=tuple(creates))
    return replace(scenario, tenants=(tenant,), first=first, scaled=False)


def test_new_images_are_found_by_nobody():
    summary = summarise(simulate(azure(np.arange).scenario(scaling="static", params=FEW)))
    assert summary.embedding_hits == 0.0


def test_an_image_is_named_by_its_place_in_the_request():
    assert [Content(images="7").image(n) for n in range(2)] == ["7.0", "7.1"]
    assert Content().image(0) == ""
