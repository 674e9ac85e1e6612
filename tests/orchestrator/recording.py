"""A simulation's event log: what came, what started and what ended, and each snapshot that was decided on."""

from dataclasses import dataclass, field

from orchestrator.core.types import Replica
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import simulate
from orchestrator.simulator.service import Service
from orchestrator.simulator.world import World
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

    def before(kind, method, note):
        """Have `note` called with the same arguments first."""
        original = getattr(kind, method)

        def noting(self, *args, **options):
            note(self, *args, **options)
            return original(self, *args, **options)

        monkeypatch.setattr(kind, method, noting)

    def event(what):
        def note(service, request, *_, **__):
            log.add(service._clock.now_s, what, request)

        return note

    def hop_event(what, cached):
        def note(service, hop, *_):
            log.add(service._clock.now_s, what, hop.request, getattr(hop, cached))

        return note

    def ended(service, index, ending):
        log.endings.append(ending)
        if ending is Ending.REFUSED:
            log.add(service._clock.now_s, "refused")

    observed = World.snapshot

    def snapshot(world):
        taken = observed(world)
        (hosted,) = world._hosted.values()
        said = {stage: _said(pool) for stage, pool in hosted.service.pool_of.items()}
        log.add(world._clock.now_s, "tick", more=(taken, said))
        return taken

    before(ServiceTotals, "offered", lambda self, tag, now_s: log.add(now_s, "offered", more=tag))
    before(Service, "_send_in", event("admitted"))
    before(Service, "_end", ended)
    before(Service, "_start", lambda s, hop, at: log.add(s._clock.now_s, "started", hop.request, at.stage))
    before(Service, "_encoded", hop_event("encoded", "cached_images"))
    before(Service, "_prefilled", hop_event("prefilled", "cached_tokens"))
    before(Service, "_first_token", event("first"))
    before(Service, "_answer", event("answered"))
    monkeypatch.setattr(World, "snapshot", snapshot)
    simulate(scenario)
    return log


def _said(pool):
    """Return what the ledger would have of each replica, and its busy seconds."""
    return [
        (Replica(**{name: getattr(r, name) for name in REPLICA_FIELDS}), r.engine.busy_s())
        for r in pool.replicas
    ]
