"""One service of a scenario, and how it is made to run in a world."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from orchestrator.core.capacity import Mix, decode_rate, encode_rate, kv_capacity_tokens, prefill_rate
from orchestrator.core.links import Link
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import HardwareClass, ModelProfile
from orchestrator.policy import Policy
from orchestrator.simulator.build import ReplicaShape, slowed
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.host_path import HostPath
from orchestrator.simulator.outcomes import Outcomes
from orchestrator.simulator.pool import Pool
from orchestrator.simulator.prefixes import Prefixes
from orchestrator.simulator.servable import Classes, servable, served
from orchestrator.simulator.service import Service
from orchestrator.simulator.systems import SYSTEMS, System
from orchestrator.simulator.terms import Promises, Speeds, Terms, Transfer
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload
from orchestrator.simulator.world import Hosted
from orchestrator.totals import ServiceTotals
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One service of a scenario.

    Attributes:
        policy: The policy file.
        control: What control needs of it.
        links: links[n] joins replicas that share n leading topology levels.
        system: A key of `SYSTEMS`.
        slowdown: What engines take as a multiple of what the profile says; nobody is told.
    """

    policy: Policy
    control: ControlPolicy
    workload: Workload
    links: Sequence[Link]
    system: str = "e-p-d"
    slowdown: float = 1.0

    @property
    def name(self) -> str:
        """The service's name."""
        return self.control.service

    def hosted(self, clock: Clock, outcomes: Outcomes, rng: np.random.Generator, classes: Classes) -> Hosted:
        """Return the service ready to be put into a world, as yet without replicas.

        Args:
            clock: The virtual clock.
            outcomes: Records what becomes of each request.
            rng: Of a shared host.
            classes: Where its replicas may be.
        """
        system, host = SYSTEMS[self.system], self.control.profile.host
        path = HostPath(clock, host, rng) if host else None
        pools = {self._pool(stages, system): stages for stages in system.pools}
        service = Service(
            clock,
            tuple(pools),
            Terms(
                profile=self.control.profile,
                promises=self._promises(),
                speeds=speeds(self.control, self.workload, system),
                transfer=_at_once if path else _transfer_over(self.links),
                servable=servable(self.control, self.workload, system, classes),
            ),
            ServiceTotals({stage: self.control.stages[stage].budget_s for stage in Stage}),
            outcomes,
            self._prefixes(),
        )
        actual = replace(self.control, profile=slowed(self.control.profile, self.slowdown))
        shapes = {
            pool: ReplicaShape(stages=stages, system=system, policy=actual, path=path)
            for pool, stages in pools.items()
        }
        arrive = path.door(service) if path else service.arrive
        return Hosted(service=service, arrive=arrive, shapes=shapes, policy=self.control)

    def _pool(self, stages: tuple[Stage, ...], system: System) -> Pool:
        return Pool(
            stages,
            self.control.profile.model,
            self.policy.routing.weights(stages[0]),
            self.policy.waiting_params,
            required_level=self.control.edges.prefill_decode if stages[0] is Stage.DECODE else 0,
            pick=system.pick(),
        )

    def _prefixes(self) -> Prefixes | None:
        blocks = self.workload.prefix_blocks
        if blocks is None:
            return None
        return Prefixes(blocks.block_tokens, blocks.block_tokens * self.control.profile.kv_bytes_per_token)

    def _promises(self) -> Promises:
        return Promises(
            bounds=self.policy.admission_bounds,
            waiting=self.policy.waiting_params,
            tpot_s=self.policy.slo.tpot_s,
            max_context=self.control.max_context,
            deadline_s=self.policy.admission.deadline_s,
        )


def speeds(control: ControlPolicy, work: Workload, system: System) -> Speeds:
    """Return what one replica of each stage does per second at the mean request of those it can serve.

    Where that one is too long for its time per token even alone, decode is at the rate of one sequence.
    """
    profile = control.profile
    work = served(control, work, system)
    at = {stage: HardwareClass(b.hardware[0], b.tp) for stage, b in control.stages.items()}
    mix = _mean_request(profile, work)
    decode = at[Stage.DECODE]
    kv_tokens = kv_capacity_tokens(profile, Stage.DECODE, decode, control.accelerators)
    slots = control.stages[Stage.DECODE].slots
    encode = at[Stage.ENCODE]
    return Speeds(
        rates={
            Stage.ENCODE: encode_rate(profile, encode),
            Stage.PREFILL: prefill_rate(profile, at[Stage.PREFILL]),
            Stage.DECODE: decode_rate(
                profile, decode, mix, tpot_s=control.tpot_s, slots=slots, kv_tokens=kv_tokens
            )
            or 1.0 / profile.decode[decode].itl_s(1, mix.context_tokens + mix.output_tokens / 2.0),
        },
        image_s=profile.encode[encode].image_s,
        images_at_once=at[Stage.PREFILL].tp,
    )


def _mean_request(profile: ModelProfile, work: Workload) -> Mix:
    if not len(work):
        return Mix(prompt_tokens=1.0, context_tokens=1.0, output_tokens=1.0)
    prompt = float(np.mean(work_from_rows(work, profile).prompt_tokens))
    return Mix(
        prompt_tokens=prompt,
        context_tokens=prompt + float(np.mean(work.images)) * profile.image_kv_positions,
        output_tokens=float(np.mean(work.output_tokens)),
    )


def _at_once(size_bytes: int, source: tuple[str, ...], target: tuple[str, ...]) -> float:
    """Move nothing: on one host, what the blob store costs was measured with the hops."""
    return 0.0


def _transfer_over(links: Sequence[Link]) -> Transfer:
    @cache
    def link(source: tuple[str, ...], target: tuple[str, ...]) -> Link:
        shared = 0
        while shared < min(len(source), len(target)) and source[shared] == target[shared]:
            shared += 1
        return links[min(shared, len(links) - 1)]

    return lambda size_bytes, source, target: link(source, target).transfer_s(size_bytes)
