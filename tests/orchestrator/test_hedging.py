"""A hop that takes long goes to a second replica as well: the first answer counts, the other is withdrawn."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from stages.reply import Failed, Lost, Reply
from stages.types import Job, Stage
from tests.orchestrator.test_pipeline import TEXT, FakeHops, honest, pipeline, text

HEDGED = {Stage.ENCODE: 0.02, Stage.PREFILL: 0.02, Stage.DECODE: None}
NEVER = 1000.0


def serve(late_s: Mapping[str, float], script: Callable[[Job], list[Reply]] = honest) -> FakeHops:
    """Serve a request with an image; return its attempts, none of which is left running."""
    hops = FakeHops(script, late_s)

    async def run() -> None:
        chunks = [chunk async for chunk in pipeline(hops, 1, hedge_s=HEDGED).run()]
        assert text(chunks) == TEXT

    asyncio.run(asyncio.wait_for(run(), 10.0))
    assert hops.running == 0
    return hops


def test_nobody_else_is_asked_if_the_first_answers_in_time() -> None:
    assert serve({}).hops() == ["encode.0#1", "prefill#1", "decode#1"]


@pytest.mark.parametrize("hop", ["encode.0", "prefill"])
def test_a_second_replica_answers_for_one_that_does_not(hop: str) -> None:
    hops = serve({f"{hop}#1": NEVER})
    first, second = (i for i, job in enumerate(hops.jobs) if job.hop.startswith(hop))
    assert hops.jobs[second].hop == f"{hop}.hedge"
    assert hops.queries[first].excluded == frozenset()
    assert hops.queries[second].excluded == {f"{hops.queries[first].stage}.{first + 1}"}


def test_the_first_counts_if_it_is_sooner_after_all() -> None:
    hops = serve({"prefill#1": 0.1, "prefill.hedge#1": NEVER})
    assert hops.hops() == ["encode.0#1", "prefill#1", "prefill.hedge#1", "decode#1"]


@pytest.mark.parametrize("bad", [Failed(kind="refused", message="busy"), Lost("lost")])
def test_what_one_gets_wrong_the_other_makes_good(bad: Reply) -> None:
    hops = serve({"prefill#1": 0.1}, lambda job: [bad] if job.hop == "prefill.hedge" else honest(job))
    assert hops.hops() == ["encode.0#1", "prefill#1", "prefill.hedge#1", "decode#1"]


def test_a_hop_that_both_get_wrong_is_tried_again() -> None:
    def script(job: Job) -> list[Reply]:
        once = job.hop.startswith("prefill") and job.attempt == 1
        return [Failed(kind="refused", message="busy")] if once else honest(job)

    hops = serve({"prefill#1": 0.1}, script)
    assert hops.hops() == ["encode.0#1", "prefill#1", "prefill.hedge#1", "prefill#2", "decode#1"]
