"""One suite for every store of published policies: the real one over a real redis-server, and the fake."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters.redis import connect
from orchestrator.adapters.redis_policies import RedisPolicies
from orchestrator.adapters.redis_shards import RedisShards
from orchestrator.ports import LedgerUnavailable, PolicyEdition, PolicyStore, PublishResult
from orchestrator.shards import shard_of
from tests.fakes.policies import FakePolicies
from tests.fakes.redis_process import RedisProcess

FIRST = PolicyEdition(version=(1_700_000_000, 41), text="service: a\n", beside={"profile.yaml": "ü: 1\n"})
TAKEN, SAME, OLDER = PublishResult.TAKEN, PublishResult.SAME, PublishResult.OLDER

Make = Callable[[], AbstractAsyncContextManager[PolicyStore]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def fake() -> AsyncIterator[PolicyStore]:
    yield FakePolicies()


def real(server: RedisProcess) -> Make:
    @asynccontextmanager
    async def store() -> AsyncIterator[PolicyStore]:
        server.client().flushall()
        client = connect(server.url)
        yield RedisPolicies(client)
        await client.aclose()

    return store


def sharded(server: RedisProcess) -> Make:
    @asynccontextmanager
    async def store() -> AsyncIterator[PolicyStore]:
        server.client().flushall()
        shards = RedisShards([f"{server.url}?db={number}" for number in range(3)])
        yield shards
        await shards.aclose()

    return store


@pytest.fixture(params=["fake", "redis", "shards"])
def make(request: pytest.FixtureRequest, server: RedisProcess) -> Make:
    return {"fake": fake, "redis": real(server), "shards": sharded(server)}[request.param]


def edition(*version: int) -> PolicyEdition:
    return replace(FIRST, version=version, text=f"edition {version}\n")


def publish(make: Make, *editions: PolicyEdition) -> tuple[list[PublishResult], PolicyEdition | None]:
    """Publish in this order; return the results, and what is there in the end."""

    async def body() -> tuple[list[PublishResult], PolicyEdition | None]:
        async with make() as store:
            results = [await store.publish("a", each) for each in editions]
            assert await store.published("b") is None, "another service's"
            return results, await store.published("a")

    return asyncio.run(body())


def test_nothing_is_published_at_first(make: Make) -> None:
    assert publish(make) == ([], None)


def test_what_is_published_is_found_whole(make: Make) -> None:
    """And once more changes nothing."""
    assert publish(make, FIRST, FIRST) == ([TAKEN, SAME], FIRST)


@pytest.mark.parametrize(
    ("held", "offered", "result"),
    [
        pytest.param((5, 41), (5, 42), TAKEN, id="newer"),
        pytest.param((5, 41), (5, 9), OLDER, id="older-though-longer-as-text"),
        pytest.param((5, 41), (6, 1), TAKEN, id="made-anew"),
        pytest.param((6, 1), (5, 41), OLDER, id="of-what-was-there-before"),
    ],
)
def test_an_older_edition_never_takes_a_newer_one_s_place(
    make: Make, held: tuple[int, int], offered: tuple[int, int], result: PublishResult
) -> None:
    assert publish(make, edition(*held), edition(*offered)) == (
        [TAKEN, result],
        edition(*max(held, offered)),
    )


@settings(max_examples=40, deadline=None)
@given(versions=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**53)), min_size=1, max_size=8))
def test_whatever_the_order_the_newest_stays(server: RedisProcess, versions: list[tuple[int, int]]) -> None:
    """As if two publishers went on side by side; the fake says the same of each."""
    editions = [edition(*version) for version in versions]
    told, kept = publish(real(server), *editions)
    assert kept == edition(*max(versions))
    assert (told, kept) == publish(fake, *editions)


def test_a_store_that_is_away_says_so(tmp_path) -> None:
    async def ask() -> None:
        client = connect(f"unix://{tmp_path}/nobody.sock", patient=False)
        store = RedisPolicies(client)
        with pytest.raises(LedgerUnavailable):
            await store.published("a")
        with pytest.raises(LedgerUnavailable):
            await store.publish("a", FIRST)
        await client.aclose()

    asyncio.run(ask())


def test_a_policy_lies_on_the_shard_of_its_service_alone(server: RedisProcess) -> None:
    async def body() -> list[bool]:
        async with sharded(server)() as store:
            await store.publish("a", FIRST)
        found = []
        for number in range(3):
            client = connect(f"{server.url}?db={number}")
            found.append(await RedisPolicies(client).published("a") is not None)
            await client.aclose()
        return found

    assert asyncio.run(body()) == [number == shard_of("a", 3) for number in range(3)]
