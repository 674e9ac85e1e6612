"""A simulation's event log: what came, what started and what ended, and each snapshot that was decided on."""

from dataclasses import dataclass, field

from orchestrator.core.types import Replica
from orchestrator.simulator.endings import Endings
from orchestrator.simulator.journey import Journey
from orchestrator.simulator.outcomes import Ending
from orchestrator.simulator.run import simulate
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
        def note(where, request, *_, **__):
            log.add(where._clock.now_s, what, request)

        return note

    def refused(endings, index):
        log.endings.append(Ending.REFUSED)
        log.add(endings._clock.now_s, "refused")

    def expired(endings, request):
        if not request.ended:
            log.endings.append(Ending.EXPIRED)

    observed = World.snapshot

    def snapshot(world):
        taken = observed(world)
        (hosted,) = world._hosted.values()
        said = {stage: _said(pool) for stage, pool in hosted.service.pool_of.items()}
        log.add(world._clock.now_s, "tick", more=(taken, said))
        return taken

    before(ServiceTotals, "offered", lambda self, tag, now_s: log.add(now_s, "offered", more=tag))
    before(Endings, "refused", refused)
    before(Endings, "expired", expired)
    before(Endings, "first_token", event("first"))
    before(Endings, "answered", event("answered"))
    before(Journey, "begin", event("admitted"))
    before(Journey, "_start", lambda j, hop, at: log.add(j._clock.now_s, "started", hop.request, at.stage))
    before(
        Journey,
        "_encoded",
        lambda j, hop, _: log.add(j._clock.now_s, "encoded", hop.request, hop.cached_images),
    )
    before(
        Journey,
        "_prefilled",
        lambda j, _, hop: log.add(j._clock.now_s, "prefilled", hop.request, hop.cached_tokens),
    )
    monkeypatch.setattr(World, "snapshot", snapshot)
    simulate(scenario)
    return log


def _said(pool):
    """Return what the ledger would have of each replica, and its busy seconds."""
    return [
        (Replica(**{name: getattr(r, name) for name in REPLICA_FIELDS}), r.engine.busy_s())
        for r in pool.replicas
    ]
