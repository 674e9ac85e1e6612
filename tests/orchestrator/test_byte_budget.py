"""The bound on media bytes in memory."""

import asyncio
import random

import pytest

from orchestrator.api_errors import ApiError
from orchestrator.byte_budget import ByteBudget


def test_room_is_given_back():
    async def scenario():
        budget = ByteBudget(100)
        async with budget.hold(60), budget.hold(40):
            assert budget.held_bytes == 100
        assert budget.held_bytes == 0

    asyncio.run(scenario())


def test_growth_beyond_the_capacity_is_503_at_once_and_all_of_it_is_given_back():
    async def scenario():
        budget = ByteBudget(100)
        async with budget.hold(10) as grow:
            grow(50)
            grow(40)
            with pytest.raises(ApiError) as caught:
                grow(1)
            assert (caught.value.status, budget.held_bytes) == (503, 100)
        assert budget.held_bytes == 0

    asyncio.run(scenario())


def test_waiting_too_long_is_503_with_retry_after_and_leaves_no_trace():
    async def scenario():
        budget = ByteBudget(100, wait_s=0.05)
        async with budget.hold(60):
            with pytest.raises(ApiError) as caught:
                async with budget.hold(60):
                    pass
            assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "1")
            async with budget.hold(40):
                assert budget.held_bytes == 100
        assert budget.held_bytes == 0

    asyncio.run(scenario())


def test_what_can_never_fit_is_refused_at_once():
    async def scenario():
        with pytest.raises(ApiError) as caught:
            async with ByteBudget(100).hold(101):
                pass
        assert caught.value.status == 400

    asyncio.run(scenario())


def test_a_large_request_is_not_overtaken_by_small_ones():
    async def scenario():
        budget, order = ByteBudget(100), []

        async def one(name: str, size_bytes: int) -> None:
            async with budget.hold(size_bytes):
                order.append(name)
                await asyncio.sleep(0)

        async with budget.hold(50):
            tasks = [asyncio.create_task(one("large", 90)), asyncio.create_task(one("small", 10))]
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*tasks)
        assert order == ["large", "small"]

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_never_over_capacity_whoever_gives_up_when(seed):
    """300 requests, a third of them cancelled at random moments, some out of patience."""
    rng = random.Random(seed)
    capacity_bytes, peak_bytes = 100, 0

    async def scenario():
        budget = ByteBudget(capacity_bytes, wait_s=0.02)

        async def one(size_bytes: int, pause_s: float) -> None:
            nonlocal peak_bytes
            async with budget.hold(size_bytes) as grow:
                peak_bytes = max(peak_bytes, budget.held_bytes)
                await asyncio.sleep(pause_s)
                grow(size_bytes)

        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(one(rng.randint(1, 100), rng.choice([0, 0, 0.001]))))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice([0, 0, 0.001]))
            if rng.random() < 0.33:
                rng.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(
            result is None or isinstance(result, ApiError | asyncio.CancelledError) for result in results
        )
        assert budget.held_bytes == 0
        async with budget.hold(capacity_bytes):
            pass

    asyncio.run(scenario())
    assert 0 < peak_bytes <= capacity_bytes
