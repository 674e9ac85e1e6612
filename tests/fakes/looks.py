"""Control's view of one service that a single counter counts."""

from orchestrator.core.counts import Backlog
from orchestrator.core.observe import Reading, ServiceView, observe
from orchestrator.core.types import Replica
from stages.types import Stage


class Looks:
    """Looks at totals again and again, as control does."""

    def __init__(self, totals):
        self.totals = totals
        self._state = {}

    def at(self, now_s, *, waiting=None, readings=None):
        """Return the sample of one look."""
        every = {stage: (waiting or {}).get(stage, Backlog()) for stage in Stage}
        seen = {stage: (readings or {}).get(stage, ()) for stage in Stage}
        view = ServiceView(counts=(self.totals.count("one", now_s, every),), readings=seen)
        snapshot, self._state = observe({"s": view}, (), (), self._state, now_s)
        return snapshot.services["s"]


def reading(stage, name="r", *, busy_s=0.0, **of_replica):
    """Return what a replica says."""
    replica = Replica(replica_id=name, stage=stage, model="m", slots=8, **of_replica)
    return Reading(replica, busy_s)
