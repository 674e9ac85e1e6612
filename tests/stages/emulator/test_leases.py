"""What becomes of a KV cache that waits for a decode engine."""

import asyncio

import pytest

from stages.emulator.blocks import BlockPool
from stages.emulator.leases import Leases, Refusal


class Freed:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1


def leases_of(lease_s=30.0):
    pool = BlockPool(10, 16)
    return pool, Leases(pool, "engine-1", lease_s, Freed())


def held(pool, leases, tokens=40):
    blocks: list[int] = []
    assert pool.grow(blocks, tokens)
    return leases.hold("chatcmpl-a", 99, tokens, blocks)


def on_loop(test):
    async def run():
        test()

    asyncio.run(run())


def test_it_is_given_out_once_and_its_blocks_are_free():
    def test():
        pool, leases = leases_of()
        source = held(pool, leases)
        assert (pool.used, leases.blocks, len(leases)) == (3, 3, 1)
        assert leases.pull("engine-1", source.request_id) == (99, 40)
        assert (pool.used, leases.blocks, len(leases)) == (0, 0, 0)
        assert leases.pull("engine-1", source.request_id) is Refusal.USED
        assert (leases.pulled, leases.refused) == (1, 1)

    on_loop(test)


@pytest.mark.parametrize(
    ("engine_id", "request_id", "why"),
    [("engine-0", None, Refusal.ENGINE), ("engine-1", "chatcmpl-b", Refusal.UNKNOWN)],
)
def test_what_was_not_issued_is_refused(engine_id, request_id, why):
    def test():
        pool, leases = leases_of()
        source = held(pool, leases)
        assert leases.pull(engine_id, request_id or source.request_id) is why
        assert pool.used == 3

    on_loop(test)


def test_it_can_be_given_up():
    def test():
        pool, leases = leases_of()
        source = held(pool, leases)
        leases.release("engine-1", source.request_id)
        leases.release("engine-1", source.request_id)
        assert (pool.used, leases.released) == (0, 1)
        assert leases.pull("engine-1", source.request_id) is Refusal.RELEASED

    on_loop(test)


def test_it_is_freed_when_its_lease_is_over():
    async def test():
        pool, leases = leases_of(lease_s=0.01)
        source = held(pool, leases)
        async with asyncio.timeout(5):
            while pool.used:
                await asyncio.sleep(0.005)
        assert leases.expired == 1
        assert leases.pull("engine-1", source.request_id) is Refusal.EXPIRED

    asyncio.run(test())


def test_a_renewed_lease_lasts_from_then_on():
    async def test():
        pool, leases = leases_of(lease_s=0.5)
        source = held(pool, leases)
        give_up_s = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < give_up_s:
            leases.renew("engine-1", source.request_id)
            await asyncio.sleep(0.01)
        assert leases.pull("engine-1", source.request_id) == (99, 40)

    asyncio.run(test())


def test_all_expire_by_fault():
    def test():
        pool, leases = leases_of()
        held(pool, leases)
        leases.expire_all()
        assert (pool.used, leases.expired) == (0, 1)

    on_loop(test)
