"""Makes engines and replicas from a profile."""

from dataclasses import dataclass, replace

from orchestrator.core.capacity import USABLE_MEMORY
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import (
    DecodeTiming,
    EncodeTiming,
    HardwareClass,
    ModelProfile,
    PrefillTiming,
)
from orchestrator.simulator.clock import Clock
from orchestrator.simulator.decode_engine import DecodeEngine
from orchestrator.simulator.encode_engine import EncodeEngine
from orchestrator.simulator.engine import UNBOUNDED, Engine, Milestones
from orchestrator.simulator.host_path import HostPath
from orchestrator.simulator.hosted import hosted_engine
from orchestrator.simulator.step_engine import NO_DECODE, StepEngine
from orchestrator.simulator.systems import System
from stages.types import Stage

CORES_PER_ACCELERATOR = 8
"""Processor cores that prepare images beside one accelerator; p4d.24xlarge and p5.48xlarge have 12 to 24."""

EMBEDDING_SHARE = 0.05
"""Fraction of a replica's memory that keeps embeddings of images; of what `USABLE_MEMORY` leaves over."""


def slowed(profile: ModelProfile, factor: float) -> ModelProfile:
    """Return a profile by which all engines take so many times as long."""
    return replace(
        profile,
        encode={at: EncodeTiming(image_s=factor * t.image_s) for at, t in profile.encode.items()},
        prefill={
            at: PrefillTiming(
                points=tuple((tokens, factor * seconds) for tokens, seconds in t.points),
                floor_s=factor * t.floor_s,
            )
            for at, t in profile.prefill.items()
        },
        decode={
            at: DecodeTiming(
                step_s=factor * t.step_s,
                sequence_s=factor * t.sequence_s,
                context_token_s=factor * t.context_token_s,
            )
            for at, t in profile.decode.items()
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """What a pool's replicas are made of.

    Attributes:
        stages: What they do.
        system: How the service is laid out.
        policy: The service's.
        path: The processes of the machine that all replicas share; None if they share none.
    """

    stages: tuple[Stage, ...]
    system: System
    policy: ControlPolicy
    path: HostPath | None = None

    @property
    def slots(self) -> int:
        """Hops that may be dispatched to one at once; the queue of a plain server has no bound."""
        if len(self.stages) > 1:
            return UNBOUNDED
        return self.policy.stages[self.stages[0]].slots

    def kv_bytes(self, where: HardwareClass) -> int:
        """Return the KV cache of one replica; 0 for encode alone."""
        if self.stages == (Stage.ENCODE,):
            return 0
        profile = self.policy.profile
        stages = (Stage.ENCODE, Stage.PREFILL) if Stage.ENCODE in self.stages else (Stage.PREFILL,)
        weights = sum(profile.weights_bytes[stage] for stage in stages)
        memory = self.policy.accelerators[where.hardware].memory_bytes * where.tp * USABLE_MEMORY
        return max(0, int(memory - weights))

    def cached_images(self, where: HardwareClass) -> int:
        """Return how many images' embeddings one replica keeps; 0 if it does not encode."""
        if Stage.ENCODE not in self.stages:
            return 0
        memory = self.policy.accelerators[where.hardware].memory_bytes * where.tp * EMBEDDING_SHARE
        return int(memory // self.policy.profile.embedding_bytes)

    def engine(self, where: HardwareClass, clock: Clock, milestones: Milestones) -> Engine:
        """Return a new engine on this hardware."""
        profile, stages = self.policy.profile, self.stages
        if self.path is not None:
            return hosted_engine(self.path, stages, profile, where, clock, milestones)
        if stages == (Stage.ENCODE,):
            return EncodeEngine(
                clock,
                milestones,
                image_s=profile.encode[where].image_s,
                preprocess_s=profile.preprocess_s,
                cores=CORES_PER_ACCELERATOR * where.tp,
                cached_images=self.cached_images(where),
            )
        if stages == (Stage.DECODE,):
            return DecodeEngine(clock, milestones, profile.decode[where])
        encodes, decodes = Stage.ENCODE in stages, Stage.DECODE in stages
        parallel = self.system.images_in_parallel
        one = HardwareClass(where.hardware, 1)
        several = len(stages) > 1
        return StepEngine(
            clock,
            milestones,
            profile.prefill[where],
            profile.chunk_tokens,
            decode=profile.decode[where] if decodes else NO_DECODE,
            image_s=profile.encode[one if parallel else where].image_s if encodes else 0.0,
            images_at_once=where.tp if parallel else 1,
            preprocess_s=profile.preprocess_s if encodes else 0.0,
            sequences=self.policy.stages[Stage.DECODE].slots if decodes else UNBOUNDED,
            kv_bytes=self.kv_bytes(where) if several else UNBOUNDED,
            cached_images=self.cached_images(where),
        )
