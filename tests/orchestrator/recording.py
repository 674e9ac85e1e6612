"""A simulation's event log: what came, what started and what ended, and each snapshot that was decided on."""

from dataclasses import dataclass, field

from orchestrator.core.types import Replica
from orchestrator.simulator import run, world
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.service import Service
from orchestrator.totals import ServiceTotals

REPLICA_FIELDS = [
    *("replica_id", "stage", "model", "domain", "slots", "in_flight", "pending_tokens"),
    *("free_kv_bytes", "total_kv_bytes", "draining"),
]


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        what: offered, refused, admitted, started, encoded, prefilled, first, answered or tick.
        request: The simulator's, where there is one; else what is named.
    """

    at_s: float
    what: str
    request: object = None
    more: object = None


@dataclass
class Log:
    """Every event, in order.

    Attributes:
        endings: How requests ended otherwise than by an answer.
    """

    events: list[Event] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def add(self, at_s, what, request=None, more=None):
        self.events.append(Event(at_s, what, request, more))


def record(monkeypatch, scenario):
    """Simulate; return the log."""
    log = Log()

    class Totals(ServiceTotals):
        def offered(self, tag, now_s):
            log.add(now_s, "offered", more=tag)
            super().offered(tag, now_s)

    class Recorded(Service):
        def _send_in(self, request, *args, **options):
            log.add(self._clock.now_s, "admitted", request)
            super()._send_in(request, *args, **options)

        def _end(self, index, ending):
            log.endings.append(ending)
            if ending is Ending.REFUSED:
                log.add(self._clock.now_s, "refused")
            super()._end(index, ending)

        def _start(self, hop, replica):
            log.add(self._clock.now_s, "started", hop.request, replica.stage)
            super()._start(hop, replica)

        def _encoded(self, request, replica):
            log.add(self._clock.now_s, "encoded", request)
            super()._encoded(request, replica)

        def _prefilled(self, hop):
            log.add(self._clock.now_s, "prefilled", hop.request)
            super()._prefilled(hop)

        def _first_token(self, request):
            log.add(self._clock.now_s, "first", request)
            super()._first_token(request)

        def _answer(self, request):
            log.add(self._clock.now_s, "answered", request)
            super()._answer(request)

    class Watched(world.World):
        def snapshot(self):
            taken = super().snapshot()
            (hosted,) = self._hosted.values()
            said = {s: _said(pool) for s, pool in hosted.service.pool_of.items()}
            log.add(self._clock.now_s, "tick", more=(taken, said))
            return taken

    monkeypatch.setattr(run, "ServiceTotals", Totals)
    monkeypatch.setattr(run, "Service", Recorded)
    monkeypatch.setattr(run, "World", Watched)
    run.simulate(scenario)
    return log


def _said(pool):
    """Return what the ledger would have of each replica, and its busy seconds."""
    return [
        (Replica(**{name: getattr(r, name) for name in REPLICA_FIELDS}), r.engine.busy_s())
        for r in pool.replicas
    ]
