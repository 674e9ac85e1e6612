"""What benchmarks say of their windows, and how the load generators time."""

import asyncio
import threading

import pytest

from bench.itl import token_times_s
from bench.load import closed_loop, open_loop
from bench.report import against, as_json, figure, percentile
from cli.pressure.sse import Answer


def test_a_ratio_is_the_median_of_paired_windows_not_a_ratio_of_medians() -> None:
    found = against("f", [10.0, 40.0, 90.0], "peer", [10.0, 20.0, 100.0], "ms", "<= 1.5")
    assert (found.value, found.ratio, found.spread, found.met) == (40.0, 1.0, (0.9, 2.0), True)


@pytest.mark.parametrize(
    ("goal", "met"), [("<= 2", True), ("<= 1", False), (">= 2", True), (">= 3", False), ("", None)]
)
def test_a_goal_bounds_the_median(goal: str, met: bool | None) -> None:
    assert figure("f", [1.0, 2.0, 9.0], "s", goal).met is met


def test_json_has_the_fields_that_readers_rely_on() -> None:
    (fields,) = as_json([figure("f", [1.0], "s")]).values()
    assert {"value", "unit", "peer", "ratio", "spread"} <= fields.keys()


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], f) for f in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


def test_an_open_loop_counts_a_late_start_as_latency() -> None:
    """The first request blocks the sender itself; those that were due meanwhile started late."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        sent += 1
        if sent == 1:
            threading.Event().wait(0.1)

    window = asyncio.run(open_loop(send, rate_per_s=200.0, duration_s=0.2))
    assert sum(latency_s > 0.02 for latency_s in window.latencies_s) > 3


def test_a_closed_loop_keeps_to_its_concurrency() -> None:
    running = most = 0

    async def send() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    window = asyncio.run(closed_loop(send, concurrency=3, duration_s=0.05))
    assert most == 3
    assert window.per_s > 0


def test_tokens_of_one_read_came_at_one_time() -> None:
    def event(text: str) -> bytes:
        return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()

    answer = Answer([(1.0, event("x") + event("xx")), (2.0, event("x") + b"data: [DONE]\n\n")])
    assert token_times_s(answer) == [1.0, 1.0, 1.0, 2.0]
