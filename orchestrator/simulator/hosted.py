"""Engines whose replicas share one machine with the gateway, Redis and the clients."""

from collections.abc import Callable

from orchestrator.core.profile import HardwareClass, ModelProfile
from orchestrator.simulator.busy_time import BusyTime
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.engine import Engine, Milestones, Work
from orchestrator.simulator.hop import Hop
from orchestrator.simulator.host_path import HostedHops, HostPath
from orchestrator.simulator.hosted_decode import HostedDecode
from orchestrator.simulator.step_engine import StepEngine
from stages.types import Stage


class HostedEngine:
    """A stage that answers each hop once, behind the way to it."""

    def __init__(
        self,
        clock: Clock,
        path: HostPath,
        stage: Stage,
        milestones: Milestones,
        engine: Callable[[Milestones, Work], Engine],
    ) -> None:
        worker = path.worker()
        inner = Milestones(prefilled=milestones.prefilled, first=milestones.first, done=self._through)
        self._engine = engine(inner, worker.run)
        self._hops = HostedHops(path, worker, stage, self._engine.submit)
        self._done = milestones.done
        self._busy = BusyTime(clock)
        self._stopped = False

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._busy.enter()
        self._hops.send(hop)

    def busy_s(self) -> float:
        """See `Engine`; from the moment that a hop is on its way."""
        return self._busy.total_s()

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        return None

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True
        self._engine.stop()

    def _through(self, hop: Hop) -> None:
        self._hops.answer(hop, self._answered)

    def _answered(self, hop: Hop) -> None:
        self._busy.leave()
        if not self._stopped:
            self._done(hop)


class HostedEncode:
    """Images one after another."""

    def __init__(self, milestones: Milestones, work: Work, image_s: float) -> None:
        self._done = milestones.done
        self._work = work
        self._image_s = image_s

    def submit(self, hop: Hop) -> None:
        """See `Engine`."""
        self._work(self._image_s * hop.images, self._done, hop)

    def busy_s(self) -> float:
        """See `Engine`; the worker's process knows."""
        return 0.0

    def steps_left(self, hop: Hop) -> int | None:
        """See `Engine`."""
        return None

    def stop(self) -> None:
        """See `Engine`; what is lost is dropped where its answer arrives."""


def hosted_engine(
    path: HostPath,
    stages: tuple[Stage, ...],
    profile: ModelProfile,
    where: HardwareClass,
    clock: Clock,
    milestones: Milestones,
) -> Engine:
    """Return a new engine on a shared host.

    Raises:
        ValueError: A replica with several stages; none was measured so.
    """
    if stages == (Stage.DECODE,):
        return HostedDecode(clock, path, milestones, profile.decode[where])
    if stages == (Stage.ENCODE,):
        image_s = profile.encode[where].image_s
        return HostedEngine(
            clock, path, Stage.ENCODE, milestones, lambda to, work: HostedEncode(to, work, image_s)
        )
    if stages != (Stage.PREFILL,):
        raise ValueError("a profile with a shared host has one stage in each replica")
    timing, chunk_tokens = profile.prefill[where], profile.chunk_tokens
    return HostedEngine(
        clock,
        path,
        Stage.PREFILL,
        milestones,
        lambda to, work: StepEngine(clock, to, timing, chunk_tokens, work=work),
    )
