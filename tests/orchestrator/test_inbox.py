"""Replies reach whoever waits for them, in order."""

import asyncio

from orchestrator.inbox import Inboxes
from orchestrator.ports import Delivery
from stages.reply import Failed, Tokens
from stages.types import TokenChunk


def tokens(index: int) -> Tokens:
    return Tokens(TokenChunk(index=index, tokens=(7,)))


def test_replies_come_in_order_and_to_their_own_inbox() -> None:
    async def scenario() -> None:
        inboxes = Inboxes()
        a, b = inboxes.open("a"), inboxes.open("b")
        inboxes.deliver([Delivery("a", tokens(0)), Delivery("b", tokens(9)), Delivery("a", tokens(1))])
        assert [await a.get(), await a.get()] == [tokens(0), tokens(1)]
        assert await b.get() == tokens(9)

    asyncio.run(scenario())


def test_a_waiting_reader_is_woken() -> None:
    async def scenario() -> None:
        inboxes = Inboxes()
        waiting = asyncio.create_task(inboxes.open("a").get())
        await asyncio.sleep(0)
        inboxes.deliver([Delivery("a", tokens(0))])
        assert await waiting == tokens(0)

    asyncio.run(scenario())


def test_what_comes_for_a_closed_inbox_is_dropped() -> None:
    inboxes = Inboxes()
    inbox = inboxes.open("a")
    inboxes.close("a")
    inboxes.deliver([Delivery("a", Failed("cancelled", ""))])
    assert not inbox.ended


def test_depth_is_reported_as_it_changes() -> None:
    async def scenario() -> None:
        depths: list[int] = []
        inboxes = Inboxes()
        inbox = inboxes.open("a", depths.append)
        inboxes.deliver([Delivery("a", tokens(0)), Delivery("a", tokens(1))])
        await inbox.get()
        assert depths == [1, 2, 1]

    asyncio.run(scenario())
