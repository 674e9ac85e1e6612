"""Blocks are never over-committed, and pages come back as they went in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.limits import EngineLimits
from stages.paged_kv import BlockBudget, PrefixCache

BLOCK = 4


def slab(tokens, value):
    return np.full((2, 2, 1, tokens, 3), value, np.float32)


def names(prefix, count):
    return tuple(f"{prefix}{i}" for i in range(count))


def test_a_budget_takes_all_or_nothing():
    budget = BlockBudget(1050, 100)
    assert budget.take(8)
    assert not budget.take(3)
    assert budget.free_bytes == 200
    budget.give(8)
    assert budget.free_bytes == budget.total_bytes == 1000


def test_returning_what_was_not_taken_is_an_error():
    with pytest.raises(ValueError, match="1 blocks returned"):
        BlockBudget(100, 10).give(1)


def test_pages_come_back_as_they_went_in():
    cache = PrefixCache(BlockBudget(100, 10), BLOCK)
    source = np.random.default_rng(0).standard_normal((2, 2, 1, 11, 3)).astype(np.float32)
    cache.store(names("a", 2), source)
    target = slab(16, 0)
    assert cache.match(names("a", 4)) == 2
    cache.load(names("a", 2), target)
    assert np.array_equal(target[:, :, :, :8], source[:, :, :, :8])
    assert not target[:, :, :, 8:].any()


def test_the_prompt_used_least_recently_goes_first_and_from_its_end():
    budget = BlockBudget(60, 10)
    cache = PrefixCache(budget, BLOCK)
    cache.store(names("a", 3), slab(12, 1))
    cache.store(names("b", 3), slab(12, 2))
    cache.match(names("a", 3))
    assert cache.make_room(2)
    assert (cache.match(names("a", 3)), cache.match(names("b", 3))) == (3, 1)
    assert budget.free_bytes == 20


def test_room_that_cannot_be_made_evicts_nothing():
    budget = BlockBudget(40, 10)
    cache = PrefixCache(budget, BLOCK)
    cache.store(names("a", 2), slab(8, 1))
    budget.take(2)
    assert not cache.make_room(3)
    assert cache.evictable_blocks == 2


def test_a_prompt_longer_than_the_memory_keeps_its_beginning():
    cache = PrefixCache(BlockBudget(30, 10), BLOCK)
    cache.store(names("a", 5), slab(20, 1))
    assert cache.match(names("a", 5)) == 3


@given(
    st.lists(st.tuples(st.sampled_from(["store", "room", "take", "give"]), st.integers(0, 6)), max_size=60)
)
@settings(deadline=None)
def test_used_blocks_are_those_taken_and_the_pages(actions):
    budget = BlockBudget(80, 10)
    cache = PrefixCache(budget, BLOCK)
    taken = 0
    for action, amount in actions:
        match action:
            case "store":
                cache.store(names(amount, amount), slab(BLOCK * 6, amount))
            case "room":
                assert cache.make_room(amount) == (amount + taken <= 8)
            case "take":
                taken += amount if budget.take(amount) else 0
            case "give":
                amount = min(amount, taken)
                budget.give(amount)
                taken -= amount
        assert budget.used_blocks == taken + cache.evictable_blocks <= 8


def test_an_engine_without_a_budget_has_room_for_eight_full_contexts():
    assert EngineLimits().kv_bytes(100, 10) == 8000
    assert EngineLimits(kv_budget_bytes=5).kv_bytes(100, 10) == 5
