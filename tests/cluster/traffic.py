"""Traffic without engines: what a gateway and the replicas of a service would write to Redis."""

import asyncio
import time

import msgspec

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.core.counts import Backlog
from orchestrator.core.types import StageTag
from orchestrator.counting import steady_unix_s
from orchestrator.kube_names import HARDWARE, STAGE
from orchestrator.published import published
from orchestrator.totals import ServiceTotals
from stages.types import Modality, Stage
from tests.cluster.objects import is_ready
from workers.ledger import WorkerLedger
from workers.ledger import connect as connect_worker

IMAGE_TOKENS, TEXT_TOKENS, OUTPUT_TOKENS = 1280, 500, 300
_REQUEST = StageTag(
    modalities=frozenset({Modality.TEXT, Modality.IMAGE}),
    stages=tuple(Stage),
    item_tokens=(IMAGE_TOKENS,) * 2,
    prefill_tokens=TEXT_TOKENS + 2 * IMAGE_TOKENS,
    context_tokens=TEXT_TOKENS + 2 * IMAGE_TOKENS,
    output_tokens=OUTPUT_TOKENS,
)
_WAITING = dict.fromkeys(Stage, Backlog())


class Traffic:
    """Requests of two images at a rate that may be changed, all served well.

    Attributes:
        rate: Requests per second.
        api: Where the replicas are.
    """

    def __init__(self, redis_url, api, model):
        self.rate = 0.0
        self._url, self.api, self._model = redis_url, api, model
        self._client = connect_worker(redis_url)
        self._now_s = steady_unix_s()
        self._totals = ServiceTotals(dict.fromkeys(Stage, 1.0), self._now_s())
        self._begun_s = self._passed_s = time.monotonic()
        self._owed = 0.0
        self._first = True

    def step(self):
        """Count what came since the last step, and have gateway and replicas say that they live."""
        now_s = time.monotonic()
        self._owed += self.rate * (now_s - self._passed_s)
        self._passed_s = now_s
        while self._owed >= 1.0:
            self._owed -= 1.0
            self._request(self._now_s())
        asyncio.run(self._greet())
        for pod in filter(is_ready, self.api.pods()):
            self._renew(pod)

    def _request(self, at_s):
        self._totals.offered(_REQUEST, at_s)
        self._totals.prefilled(_REQUEST.prefill_tokens, 0)
        self._totals.done(Stage.ENCODE, 2 * IMAGE_TOKENS)
        self._totals.done(Stage.PREFILL, _REQUEST.prefill_tokens)
        self._totals.first_token(0.5, at_s)
        self._totals.completed(OUTPUT_TOKENS, 0.5, True, at_s)

    async def _greet(self):
        client = connect(self._url)
        count = self._totals.count("g", self._now_s(), _WAITING)
        report = msgspec.json.encode(published(self._model, count))
        assert await RedisLedger(client).greet("g", report, self._first)
        self._first = False
        await client.aclose()

    def _renew(self, pod):
        stage = Stage(pod.metadata.labels[STAGE])
        worker = WorkerLedger(self._client, f"{pod.metadata.name}.1", stage)
        load = msgspec.json.encode({"busy_s": time.monotonic() - self._begun_s})
        if not worker.heartbeat(load):
            facts = {"stage": stage, "model": self._model, "modalities": [], "kv_bytes": 0, "domain": []}
            facts["hardware"] = pod.metadata.labels[HARDWARE]
            worker.register(msgspec.json.encode(facts), 8, 0)
            worker.heartbeat(load)
