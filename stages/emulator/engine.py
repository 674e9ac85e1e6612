"""An emulated engine: requests in, tokens out, at the pace of its timing."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.emulator.batch import Batch, Step
from stages.emulator.blocks import BlockPool
from stages.emulator.chat import Work
from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from stages.emulator.ec_transfer import ec_entry
from stages.emulator.encoder_store import EncoderStore
from stages.emulator.errors import failed
from stages.emulator.faults import FaultBoard
from stages.emulator.leases import Leases, Refusal
from stages.emulator.media import Json, MediaCache, Medium
from stages.emulator.metrics import EngineMetrics
from stages.emulator.sequence import Phase, Sequence
from stages.emulator.side_channel import CannotFetch, fetch, give_up, keep
from stages.emulator.transfer import KvSource, kv_params

log = logging.getLogger(__name__)

_LATE_S = 0.05
"""A step that ends later than it should is made up for by the next ones, up to this much."""
_RENEWALS = 6
"""Renewals of a lease within its time, as vLLM has it."""


class Engine:
    """One engine and its loop.

    Attributes:
        config: What it is; its role may change.
        batch: Its requests.
        pool: Its KV cache.
        store: Embeddings that it shares with others.
        leases: KV caches that wait to be fetched from it.
        media: What it knows of media.
        taken: Requests so far.
        ended: Those that are over, by reason.
        encoded: Media encoded here so far; likewise `fetches`, KV caches that came from elsewhere, and
            `failed_fetches`.
        encoding_s: Seconds of steps that encoded.
        late_s: By how much this machine was too slow for the steps' times, in all.
    """

    def __init__(
        self,
        config: EmulatorConfig,
        timing: EngineTiming,
        board: FaultBoard,
        metrics: EngineMetrics,
        engine_id: str,
    ) -> None:
        self.config = config
        self._timing = timing
        self.pool = BlockPool(config.blocks, config.block_size)
        self.store = EncoderStore(Path(config.ec_dir))
        self.leases = Leases(self.pool, engine_id, config.lease_s, self._wake_up)
        self.batch = Batch(
            None if config.role is Role.ENCODE else self.pool,
            config.max_seqs,
            config.chunk_tokens,
            self._admitted,
        )
        self.media = MediaCache()
        self.taken = 0
        self.ended: Counter[str] = Counter()
        self.encoded = 0
        self.fetches = 0
        self.failed_fetches = 0
        self.encoding_s = 0.0
        self.late_s = 0.0
        self._board = board
        self._metrics = metrics
        self._open: dict[str, Sequence] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, request_id: str, work: Work) -> Sequence:
        """Take a request."""
        self.taken += 1
        drift = self.taken if self._board.faults.drift else 0
        sequence = Sequence(request_id, work, self.config.eos_every, drift)
        self._open[request_id] = sequence
        self.batch.add(sequence)
        self._wake_up()
        if work.kv and work.kv.source and not work.kv.source.coming:
            self._start(self._keep_lease(sequence, work.kv.source))
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Drop a request whose client has gone; free what it holds, here and where its KV cache waits."""
        if sequence.over:
            return
        if sequence.phase is Phase.HANDING:
            assert sequence.work.kv
            self.leases.release(self.leases.engine_id, sequence.work.kv.room)
            return
        source = sequence.work.kv.source if sequence.work.kv else None
        if source and not sequence.fetched:
            self._start(give_up(source, self.config.handshake_s))
        self._end(sequence, "abort")

    def abort_named(self, request_id: str) -> None:
        """Drop a request by its id, if it is here."""
        if sequence := self._open.get(request_id):
            self.abort(sequence)
            sequence.finish = sequence.finish or "abort"

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do, and holds nothing for anybody."""
        return not self._open

    def become(self, role: Role) -> None:
        """Prefill from now on, or decode. It has to be idle: what it had in hand was of its old role."""
        assert self.idle
        self.config = replace(self.config, role=role)

    def take_faults(self) -> None:
        """Let the faults that concern what is kept come into force, or end."""
        faults = self._board.faults
        self.leases.expire = faults.expire_lease
        self.store.lost = faults.evict_encoder_cache
        if faults.expire_lease:
            self.leases.expire_all()
        if faults.evict_encoder_cache:
            self.store.evict()

    async def run(self) -> None:
        """Make steps until cancelled."""
        due_s = 0.0
        try:
            while True:
                step = self.batch.plan()
                if step is None:
                    await self._wake.wait()
                    self._wake.clear()
                    due_s = 0.0
                    continue
                step_s = step.seconds(self._timing) * self._board.faults.slow / self.config.speed_up
                due_s = self._begun_s(due_s) + step_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()) if step_s else 0.0)
                if step.encoding:
                    self.encoding_s += step_s
                self._finish(step)
        finally:
            for task in self._tasks:
                task.cancel()

    def _begun_s(self, due_s: float) -> float:
        """Return when the next step begins: at `due_s`, when the last one should have ended, or later.

        Args:
            due_s: 0.0 if there was none before.
        """
        now_s = time.monotonic()
        if not due_s or not (behind_s := max(0.0, now_s - due_s - _LATE_S)):
            return due_s or now_s
        self.late_s += behind_s
        return due_s + behind_s

    def _wake_up(self) -> None:
        self._wake.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _admitted(self, sequence: Sequence) -> None:
        sequence.admitted_s = sequence.admitted_s or time.monotonic()
        source = sequence.work.kv.source if sequence.work.kv else None
        if source and not sequence.fetched:
            self.batch.begin(sequence, Phase.FETCHING)
            self._start(self._fetch(sequence, source))
            return
        if not sequence.tokens:
            sequence.images = self._still_to_encode(sequence)
        self.batch.begin(sequence, Phase.ENCODING if sequence.images else Phase.PREFILLING)
        if self.config.role is Role.ENCODE and not sequence.images:
            self._encoded_all(sequence)

    def _still_to_encode(self, sequence: Sequence) -> list[Medium]:
        """Return the media of which there are no embeddings; note whose embeddings the others are."""
        if self.config.kind is Kind.SGLANG:  # which brings them with the request, and stores none
            return [] if self.config.language_only else list(sequence.work.media)
        missing = []
        for index, medium in enumerate(sequence.work.media):
            content = self.store.load(medium.key)
            if content is None or (self.config.role.produces_embeddings and content != medium.content):
                missing.append(medium)
            else:
                sequence.contents[index] = content
        return missing

    def _finish(self, step: Step) -> None:
        self._metrics.step(step.prompt_tokens + len(step.decoding))
        if step.encoding and step.encoding.phase is Phase.ENCODING:
            self._encoded(step.encoding)
        for sequence, tokens in step.chunk:
            if sequence.phase is Phase.PREFILLING:
                self._computed(sequence, tokens)
        for sequence in step.decoding:
            if sequence.phase is Phase.DECODING:
                self._speak(sequence)

    def _encoded(self, sequence: Sequence) -> None:
        medium = sequence.images.pop(0)
        self.encoded += 1
        if self.config.role.produces_embeddings and self.config.kind is Kind.VLLM:
            self.store.save(self._board.faults.key_of(medium.key), medium)
        if sequence.images:
            return
        if self.config.role is Role.ENCODE:
            self._encoded_all(sequence)
        else:
            self.batch.begin(sequence, Phase.PREFILLING)

    def _encoded_all(self, sequence: Sequence) -> None:
        params: dict[str, Json] = {}
        for index, medium in enumerate(sequence.work.media):
            key = self._board.faults.key_of(medium.key)
            if key in params:
                params[key]["item_indices"].append(index)
            else:
                params[key] = ec_entry(medium, index, self.config)
        sequence.ec_params = params or None
        sequence.finish = "stop"
        self._end(sequence, "stop")

    def _computed(self, sequence: Sequence, tokens: int) -> None:
        sequence.computed += tokens
        if sequence.computed < sequence.length:
            return
        if not sequence.tokens:
            sequence.digest = sequence.work.digest(sequence.contents)
        self.batch.begin(sequence, Phase.DECODING)
        self._speak(sequence)

    def _speak(self, sequence: Sequence) -> None:
        sequence.speak()
        sequence.computed = sequence.length - 1
        now_s = time.monotonic()
        if sequence.last_s:
            self._metrics.next_token(now_s - sequence.last_s)
        else:
            sequence.first_s = now_s
            self._metrics.first_token(sequence)
        sequence.last_s = now_s
        if sequence.finish:
            self._end(sequence, sequence.finish)

    def _end(self, sequence: Sequence, reason: str) -> None:
        self.batch.remove(sequence)
        if sequence.work.kv and sequence.work.kv.room:
            if sequence.finish:
                self._hand_over(sequence, sequence.work.kv.room, reason)
                return
            self.leases.release("", sequence.work.kv.room)
        if sequence.work.kv and sequence.work.kv.keep and sequence.finish:
            blocks, sequence.blocks = sequence.blocks, []
            source = self.leases.hold(sequence.request_id, sequence.digest, len(sequence.work.prompt), blocks)
            sequence.kv_params = kv_params(source, blocks)
        self.pool.release(sequence.blocks)
        self._close(sequence, reason)

    def _hand_over(self, sequence: Sequence, room: str, reason: str) -> None:
        """Let a request that is done wait until a decode engine has been there."""
        sequence.phase = Phase.HANDING
        blocks, sequence.blocks = sequence.blocks, []
        self.leases.hold_room(
            room,
            sequence.digest,
            len(sequence.work.prompt),
            blocks,
            lambda how: self._close(sequence, reason if how is Refusal.USED else "error"),
        )

    def _close(self, sequence: Sequence, reason: str) -> None:
        self._open.pop(sequence.request_id, None)
        self.ended[reason] += 1
        self._metrics.ended(sequence, reason, time.monotonic())
        sequence.end(failed() if reason == "error" else None)
        self._wake_up()

    async def _fetch(self, sequence: Sequence, source: KvSource) -> None:
        try:
            patience_s = self.config.lease_s if source.coming else self.config.handshake_s
            told = await fetch(source, patience_s)
        except CannotFetch as error:
            log.warning("KV cache not fetched: %s", error)
            self.failed_fetches += 1
            if not sequence.over:
                self._end(sequence, "error")
            return
        self.fetches += 1
        sequence.fetched = True
        sequence.digest = told.digest
        await asyncio.sleep(self._timing.transfer_s(told.tokens) / self.config.speed_up)
        if not sequence.over:
            sequence.computed = sequence.length - 1
            self.batch.begin(sequence, Phase.DECODING)
            self._wake_up()

    async def _keep_lease(self, sequence: Sequence, source: KvSource) -> None:
        """Renew the lease of a KV cache for which there is no room yet."""
        while True:
            await asyncio.sleep(self.config.lease_s / _RENEWALS)
            if sequence.phase is not Phase.WAITING or sequence.fetched:
                return
            await keep(source, self.config.handshake_s)
