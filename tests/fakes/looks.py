"""Control's view of one service, look after look."""

from orchestrator.core.counts import Backlog
from orchestrator.core.observe import Reading, ServiceView, observe
from orchestrator.core.types import Replica
from stages.types import Stage


class Looks:
    """Looks at counters again and again, as control does.

    Args:
        totals: Of the counter that is looked at if none is named.
    """

    def __init__(self, totals=None):
        self._totals = totals
        self._state = {}

    def at(self, now_s, *, counters=None, waiting=None, readings=None, replicas=(), complete=True):
        """Return the sample of one look.

        Args:
            now_s: When.
            counters: Totals by the name of their counter.
            waiting: `Backlog` of the first counter by stage.
            readings: By stage.
            replicas: Of the cluster.
            complete: See `ServiceView`.
        """
        counters = {"one": self._totals} if counters is None else counters
        counts = []
        for name, totals in counters.items():
            backlog = {} if counts else waiting or {}
            every = {stage: backlog.get(stage, Backlog()) for stage in Stage}
            counts.append(totals.count(name, now_s, every))
        seen = {stage: (readings or {}).get(stage, ()) for stage in Stage}
        view = ServiceView(counts=counts, readings=seen, complete=complete)
        snapshot, self._state = observe({"s": view}, replicas, (), self._state, now_s)
        return snapshot.services["s"]


def reading(stage, name="r", *, busy_s=0.0, **of_replica):
    """Return what a replica says."""
    replica = Replica(replica_id=name, stage=stage, model="m", slots=8, **of_replica)
    return Reading(replica, busy_s)
