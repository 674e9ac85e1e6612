"""The gateway's own queues, pipelines and answers, led by a recorded event log instead of by workers."""

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import replace
from types import SimpleNamespace

import msgspec

from orchestrator.answer import Answer, Course
from orchestrator.core.kv import KvSizes
from orchestrator.core.observe import observe
from orchestrator.core.types import Replica
from orchestrator.counting import Counting
from orchestrator.fleet import Fleet
from orchestrator.hops import Request
from orchestrator.metrics import Metrics
from orchestrator.pipeline import Pipeline, Work
from orchestrator.ports import Delivery, DispatchResult, RegisteredReplica, Snapshot
from orchestrator.published import published, service_view
from stages.reply import Encoded, Prefilled, Tokens
from stages.types import (
    BlobHandle,
    EmbeddingRef,
    FinishReason,
    KVRef,
    MediaItem,
    Modality,
    Prompt,
    Sampling,
    Stage,
    TokenChunk,
    stage_of,
)

GATEWAY = "g"
BLOB = BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=1.0)
TURNS = 40
"""Turns of the event loop after which everything has happened that an event leads to."""
ROOM = 1 << 40


class Ledger:
    """Gives a credit when the log says so; tells the gateway what replicas reply."""

    def __init__(self, model):
        self._routable = tuple(
            RegisteredReplica(
                replica=Replica(
                    replica_id=f"{stage}.1",
                    stage=stage,
                    model=model,
                    slots=ROOM,
                    free_kv_bytes=ROOM,
                    total_kv_bytes=ROOM,
                ),
                facts={},
                load={},
            )
            for stage in Stage
        )
        self._asked = defaultdict(deque)
        self._running = defaultdict(deque)
        self._replies = asyncio.Queue()
        self.reports = {}

    async def greet(self, gateway, report, first):
        self.reports[gateway] = msgspec.json.decode(report)
        return True

    async def snapshot(self):
        return Snapshot(replicas=self._routable)

    async def dispatch(self, order):
        credit = asyncio.get_running_loop().create_future()
        self._asked[order.job.request_id, stage_of(order.job.hop)].append((order.job, credit))
        return await credit

    async def repeat(self, order):
        return True

    async def close(self, gateway, requests): ...

    async def tell(self, replica_id, message): ...

    async def replies(self, gateway):
        while True:
            yield [await self._replies.get()]

    def start(self, request_id, stage):
        job, credit = self._asked[request_id, stage].popleft()
        credit.set_result(DispatchResult.OK)
        self._running[request_id, stage].append(job)

    def reply(self, request_id, stage, reply, *, last):
        jobs = self._running[request_id, stage]
        self._replies.put_nowait(Delivery(jobs[0].key, reply))
        if last:
            jobs.popleft()


class Replay:
    """One gateway, whose clock is that of the log."""

    def __init__(self, monkeypatch, policy, model):
        self.now_s = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self._policy = policy
        self._model = model
        self._ledger = Ledger(model)
        self._metrics = Metrics()
        self._counting = Counting(GATEWAY, lambda: policy, self._metrics, time.monotonic)
        self._fleet = Fleet(
            GATEWAY,
            self._ledger,
            lambda: policy,
            release=lambda request, urls: None,
            report=lambda: published(model, self._counting.count()),
            observer=self._counting,
        )
        self._observed = {}
        self._offers = 0
        self._serving = set()

    async def run(self, log):
        """Yield, for each tick of the log, the snapshot recorded and the one that is observed here."""
        await self._fleet.join()
        keeping = asyncio.create_task(self._fleet.run())
        for event in log.events:
            self.now_s = event.at_s
            if event.what == "tick":
                yield event.more[0], await self._look(*event.more)
            else:
                getattr(self, f"_{event.what}")(event.request, event.more)
                await _settle()
        await asyncio.gather(*self._serving)
        keeping.cancel()

    def _offered(self, _, tag):
        self._offers += 1
        self._tag = tag
        self._request = Request(
            request_id=f"{self._offers - 1}",
            reply_to=GATEWAY,
            model=self._model,
            arrival_s=self.now_s,
            due_s=None,
            deadline_s=self.now_s + 1_000.0,
            deadline_unix_s=0.0,
        )
        self._counting.offered(tag, self._request)

    def _refused(self, *_):
        self._counting.ended(self._request)

    def _admitted(self, simulated, _):
        self._request.due_s = simulated.due_s
        self._serving.add(asyncio.create_task(self._serve(self._request, self._tag)))

    async def _serve(self, request, tag):
        work = Work(
            tag=tag,
            hops=tag.stages,
            prompt=Prompt(token_ids=(0,)),
            items=[_item(tokens) for tokens in tag.item_tokens],
            sampling=Sampling(max_tokens=tag.output_tokens),
            restore=lambda index: BLOB,
            kv=KvSizes(token_bytes=1),
        )
        pipeline = Pipeline(self._fleet.hops, self._fleet.prefixes, request, work)
        front = SimpleNamespace(name=self._model, detokenize=lambda tokens: "")
        chat = SimpleNamespace(stream=False, ignored=())
        call = _Call()
        course = Course(call, request, work, self._metrics, self._counting)
        await Answer(call, chat, work, pipeline, front, course).send()
        self._fleet.ended(request)
        self._counting.ended(request)

    def _started(self, simulated, stage):
        self._ledger.start(f"{simulated.index}", stage)

    def _encoded(self, simulated, cached):
        tokens = simulated.tag.item_tokens[0]
        ref = EmbeddingRef(blob=BLOB, content_hash="", tokens=tokens, dim=1, cached=bool(cached))
        self._ledger.reply(f"{simulated.index}", Stage.ENCODE, Encoded(ref), last=True)

    def _prefilled(self, simulated, cached):
        tokens = simulated.tag.context_tokens
        ref = KVRef(blob=BLOB, tokens=tokens, first_token=0, cached_tokens=cached)
        self._ledger.reply(f"{simulated.index}", Stage.PREFILL, Prefilled(ref), last=True)

    def _first(self, simulated, _):
        chunk = TokenChunk(index=0, tokens=(0,))
        self._ledger.reply(f"{simulated.index}", Stage.DECODE, Tokens(chunk), last=False)

    def _answered(self, simulated, _):
        rest = (0,) * (simulated.output_tokens - 1)
        chunk = TokenChunk(index=1, tokens=rest, finish=FinishReason.LENGTH)
        self._ledger.reply(f"{simulated.index}", Stage.DECODE, Tokens(chunk), last=True)

    async def _look(self, recorded, said):
        """Observe as a controller would: what gateways and replicas published, what the cluster has."""
        await self._fleet.join()  # renews the lease, and with it the report
        entries = [
            RegisteredReplica(replica=replica, facts={}, load={"busy_s": busy_s})
            for every in said.values()
            for replica, busy_s in every
        ]
        registry = Snapshot(replicas=tuple(entries), gateways=self._ledger.reports)
        pending = {e.replica.replica_id: float(e.replica.pending_tokens) for e in entries}
        snapshot, self._observed = observe(
            {self._policy.service: service_view(registry, self._model)},
            [replace(r, pending_units=pending.get(r.replica_id, 0.0)) for r in recorded.replicas],
            recorded.nodes,
            self._observed,
            self.now_s,
        )
        return snapshot


class _Call:
    """A client that takes what it is given."""

    def __init__(self):
        self.notes = {}

    async def answer(self, status, body, headers): ...


def _item(tokens):
    return MediaItem(
        modality=Modality.IMAGE, blob=BLOB, content_hash="", width_px=1, height_px=1, frames=1, tokens=tokens
    )


async def _settle():
    for _ in range(TURNS):
        await asyncio.sleep(0)
