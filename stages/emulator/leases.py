"""KV caches that wait for a decode engine, each for as long as its lease."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from stages.emulator.blocks import BlockPool
from stages.emulator.transfer import KvSource

_REMEMBERED = 4096


class Refusal(StrEnum):
    """Why a KV cache cannot be fetched."""

    ENGINE = "another engine was asked for"
    UNKNOWN = "no such request"
    EXPIRED = "its lease is over"
    USED = "it has been fetched"
    RELEASED = "it was given up"


@dataclass(slots=True)
class _Lease:
    digest: int
    tokens: int
    blocks: list[int]
    timer: asyncio.TimerHandle
    ended: Callable[[Refusal], None]


class Leases:
    """Holds blocks until they are fetched, given up or too old.

    Attributes:
        host: Where they are fetched; likewise `port`.
        pulled: KV caches fetched so far; likewise `expired`, `released` and `refused`.
        expire: Fault: every lease is over as soon as it begins.

    Args:
        pool: Takes the blocks back.
        engine_id: Of this engine: new at every start.
        lease_s: See `EmulatorConfig`.
        freed: Hears that blocks have become free.
    """

    def __init__(self, pool: BlockPool, engine_id: str, lease_s: float, freed: Callable[[], None]) -> None:
        self.engine_id = engine_id
        self.lease_s = lease_s
        self.host = ""
        self.port = 0
        self.pulled = 0
        self.expired = 0
        self.released = 0
        self.refused = 0
        self.expire = False
        self._pool = pool
        self._freed = freed
        self._held: dict[str, _Lease] = {}
        self._expected: dict[str, asyncio.Event] = {}
        self._ended: OrderedDict[str, Refusal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def blocks(self) -> int:
        """Blocks that wait."""
        return sum(len(lease.blocks) for lease in self._held.values())

    def hold(self, request_id: str, digest: int, tokens: int, blocks: list[int]) -> KvSource:
        """Keep a request's blocks; return where they are."""
        name = f"{request_id}-{secrets.token_hex(4)}"
        self._held[name] = _Lease(digest, tokens, blocks, self._timer(name), lambda how: None)
        return KvSource(
            host=self.host, port=self.port, engine_id=self.engine_id, request_id=name, tokens=tokens
        )

    def hold_room(
        self, room: str, digest: int, tokens: int, blocks: list[int], ended: Callable[[Refusal], None]
    ) -> None:
        """Keep a request's blocks for whoever asks for this room; `ended` hears how that came out."""
        given_up = room in self._ended
        self._held[room] = _Lease(digest, tokens, blocks, self._timer(room), ended)
        self._wake(room)
        if given_up:
            self.release(self.engine_id, room)

    async def meet(self, room: str) -> tuple[int, int] | Refusal:
        """Give the KV cache of a room out as soon as it is there; see `pull`."""
        if room not in self._held and room not in self._ended:
            expected = self._expected.setdefault(room, asyncio.Event())
            try:
                await asyncio.wait_for(expected.wait(), self.lease_s)
            except TimeoutError:
                self._note(room, Refusal.UNKNOWN)
            finally:
                self._expected.pop(room, None)
        return self.pull(self.engine_id, room)

    def pull(self, engine_id: str, request_id: str) -> tuple[int, int] | Refusal:
        """Give a KV cache out, once: return digest and number of its tokens, or why not."""
        lease = self._end(engine_id, request_id, Refusal.USED)
        if isinstance(lease, Refusal):
            self.refused += 1
            return lease
        self.pulled += 1
        return lease.digest, lease.tokens

    def release(self, engine_id: str, request_id: str) -> None:
        """Take back the blocks of a KV cache that nobody will fetch; an empty `engine_id` is any."""
        how = self._end(engine_id or self.engine_id, request_id, Refusal.RELEASED)
        if not isinstance(how, Refusal):
            self.released += 1
        elif how is Refusal.UNKNOWN and not engine_id:
            self._note(request_id, Refusal.RELEASED)  # of a room that is not filled yet

    def renew(self, engine_id: str, request_id: str) -> None:
        """Begin a lease anew: a decode engine has the request in its queue."""
        lease = self._held.get(request_id)
        if lease and engine_id == self.engine_id:
            lease.timer.cancel()
            lease.timer = self._timer(request_id)

    def expire_all(self) -> None:
        """End every lease now."""
        for name in list(self._held):
            self._expire(name)

    def _timer(self, name: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(0.0 if self.expire else self.lease_s, self._expire, name)

    def _expire(self, name: str) -> None:
        if not isinstance(self._end(self.engine_id, name, Refusal.EXPIRED), Refusal):
            self.expired += 1

    def _end(self, engine_id: str, request_id: str, how: Refusal) -> _Lease | Refusal:
        if engine_id != self.engine_id:
            return Refusal.ENGINE
        lease = self._held.pop(request_id, None)
        if lease is None:
            return self._ended.get(request_id, Refusal.UNKNOWN)
        lease.timer.cancel()
        self._pool.release(lease.blocks)
        self._note(request_id, how)
        self._freed()
        lease.ended(how)
        return lease

    def _wake(self, room: str) -> None:
        if expected := self._expected.get(room):
            expected.set()

    def _note(self, request_id: str, how: Refusal) -> None:
        self._wake(request_id)
        self._ended[request_id] = how
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
