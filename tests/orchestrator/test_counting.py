"""What a gateway counts for control, and how others read it."""

import asyncio
from dataclasses import replace

import pytest

from orchestrator.core.counts import Backlog
from orchestrator.core.types import StageTag
from orchestrator.counting import Counting
from orchestrator.hops import Request
from orchestrator.metrics import Metrics
from orchestrator.ports import Snapshot
from orchestrator.published import published, service_view
from stages.reply import Encoded
from stages.types import EmbeddingRef, Modality, Stage
from tests.orchestrator.test_gateway import BLOB, CHAT, POLICY, Client, good, png, run, running

TAG = StageTag(
    modalities=frozenset({Modality.TEXT, Modality.IMAGE}),
    stages=tuple(Stage),
    item_tokens=(9,),
    prefill_tokens=15,
    context_tokens=15,
    output_tokens=8,
)


def totals(bench):
    return bench.counting.count().totals


def seeing(*, cached):
    """Return workers that find an image's embedding in their cache, or not."""

    def script(order):
        if order.job.hop == "encode.0":
            return [Encoded(EmbeddingRef(blob=BLOB, content_hash="", tokens=9, dim=4, cached=cached))]
        return good(order)

    return script


@pytest.mark.parametrize("cached", [False, True])
def test_an_answered_request_is_counted_in_every_stage(cached):
    """Offered work whether cached or not; done work and hits by what the replica said."""

    async def test():
        async with running(seeing(cached=cached)) as bench:
            client = bench.ask_about(png())
            assert (await client.send()).status == 200
            seen = totals(bench)
            encode, prefill, decode = (seen.stages[stage] for stage in Stage)
            assert (seen.requests, seen.finished, seen.judged, seen.attained) == (1, 1, 1, 1)
            assert (seen.image_tokens, seen.image_hit_tokens, encode.done_units) == (
                (9, 9, 0) if cached else (9, 0, 9)
            )
            assert seen.prompt_tokens == prefill.offered_units == prefill.done_units > 9
            assert (seen.output_tokens, decode.done_units) == (3, 3)
            assert [encode.offered_jobs, prefill.offered_jobs] == [1, 1]
            assert [stage.started_jobs for stage in (encode, prefill, decode)] == [1, 1, 1]
            assert 0.0 < seen.ttft_ratio < 1.0

    run(test())


def test_what_is_refused_is_offered_and_missed():
    """No replica is live; a body that cannot be read is no work at all."""

    async def test():
        async with running(replicas=False) as bench:
            assert (await bench.ask().send()).status == 503
            assert (await Client(bench.app, CHAT, b"{").send()).status == 400
            seen = totals(bench)
            assert (seen.requests, seen.judged, seen.attained, seen.finished) == (1, 1, 0, 0)

    run(test())


def test_attainment_can_be_scraped():
    async def test():
        async with running() as bench:
            bench.metrics.watch(bench.fleet, bench.counting)
            await bench.ask().send()
            names = [f"tercet:slo_{name}_requests_total" for name in ("offered", "judged", "attained")]
            assert [bench.sample(name) for name in names] == [1.0, 1.0, 1.0]

    run(test())


def test_a_client_that_leaves_in_time_says_nothing_of_the_service():
    async def test():
        async with running(lambda order: []) as bench:
            client = bench.ask()
            asked = asyncio.create_task(client.send())
            while not totals(bench).stages[Stage.PREFILL].started_jobs:
                await asyncio.sleep(0.01)
            client.gone.set()
            await asked
            assert (totals(bench).requests, totals(bench).judged) == (1, 0)

    run(test())


def test_a_gateway_publishes_its_count_with_its_lease():
    async def test():
        async with running() as bench:
            await bench.ask().send()
            await bench.fleet.join()
            view = service_view(await bench.ledger.snapshot(), "tiny")
            assert view.complete
            assert [count.counter for count in view.counts] == ["g"]
            assert view.counts[0].totals == replace(totals(bench), at_s=view.counts[0].totals.at_s)
            assert [len(view.readings[stage]) for stage in Stage] == [1, 1, 1]

    run(test())


class Bench:
    """Counts by a clock that stands still."""

    def __init__(self):
        self.now_s = 10.0
        self.policy = POLICY
        self.counting = Counting("g", lambda: self.policy, Metrics(), lambda: self.now_s)

    def request(self, name="r"):
        return Request(
            request_id=name,
            reply_to="g",
            model="tiny",
            arrival_s=10.0,
            due_s=12.0,
            deadline_s=60.0,
            deadline_unix_s=0.0,
        )


def test_a_request_is_offered_once():
    bench = Bench()
    for _ in range(2):
        bench.counting.offered(TAG, bench.request())
    assert totals(bench).requests == 1


@pytest.mark.parametrize(
    ("first", "left_s", "judged"),
    [
        pytest.param(False, 11.0, 0, id="before-it-was-due"),
        pytest.param(False, 12.5, 1, id="when-it-was-late"),
        pytest.param(True, 12.5, 0, id="after-its-first-token"),
    ],
)
def test_a_client_that_leaves_late_was_failed(first, left_s, judged):
    bench, request = Bench(), Bench().request()
    bench.counting.offered(TAG, request)
    if first:
        bench.counting.first_token(request, 11.5)
    bench.counting.gone(request, left_s)
    bench.counting.ended(request)
    assert (totals(bench).judged, totals(bench).attained) == (judged, 0)


@pytest.mark.parametrize(
    ("first_s", "end_s", "attained"), [(11.9, 12.0, 1), (12.1, 12.2, 0), (11.9, 13.0, 0)]
)
def test_a_completion_attains_if_both_targets_are_met(first_s, end_s, attained):
    """First token due at 12 s, 0.05 s a token; eleven tokens."""
    bench, request = Bench(), Bench().request()
    bench.counting.offered(TAG, request)
    bench.counting.first_token(request, first_s)
    bench.counting.completed(request, first_s, 11, end_s)
    bench.counting.ended(request)
    seen = totals(bench)
    assert (seen.judged, seen.attained) == (1, attained)
    assert seen.ttft_ratio == pytest.approx((first_s - 10.0) / 2.0)
    assert seen.tpot_ratio == pytest.approx((end_s - first_s) / 10 / 0.05)


def test_an_edit_of_a_budget_begins_new_windows_and_keeps_the_totals():
    bench = Bench()
    bench.counting.offered(TAG, bench.request())
    encode = replace(POLICY.stages.encode, budget_s=0.25)
    bench.policy = replace(POLICY, stages=replace(POLICY.stages, encode=encode))
    bench.now_s = 11.0
    count = bench.counting.count()
    assert (count.windows[Stage.ENCODE].window_s, count.windows[Stage.ENCODE].units) == (0.25, ())
    assert count.totals.requests == 1


def test_a_count_survives_its_way_through_a_report():
    bench = Bench()
    bench.counting.offered(TAG, bench.request())
    bench.now_s = 12.0
    count = bench.counting.count()
    report = {**published("tiny", count), "waiting": {"encode": 2}, "waiting_tokens": {"encode": 18}}
    view = service_view(_registry(report, {"model": "other", "count": {}}), "tiny")
    waiting = dict.fromkeys(Stage, Backlog(0.0, 0)) | {Stage.ENCODE: Backlog(18.0, 2)}
    assert view.counts == (replace(count, waiting=waiting),)
    assert view.complete


@pytest.mark.parametrize("report", [{}, {"model": "tiny"}, {"model": "tiny", "count": {"counter": 3}}])
def test_a_gateway_that_nobody_understands_leaves_the_view_incomplete(report):
    view = service_view(_registry(report), "tiny")
    assert (view.counts, view.complete) == ((), False)


def _registry(*reports):
    return Snapshot(gateways={f"g{n}": report for n, report in enumerate(reports)})
