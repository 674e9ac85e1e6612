"""summarize(): cumulative samples of a service → smoothed signals that scaling policies read."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.core.capacity import (
    PRIOR,
    Mix,
    decode_rate,
    encode_rate,
    kv_capacity_tokens,
    prefill_rate,
)
from orchestrator.core.hardware import weight
from orchestrator.core.observed import (
    PlacedReplica,
    ReplicaState,
    ServiceSample,
    Signals,
    StageSample,
    StageSignals,
)
from orchestrator.core.pending import stuck
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.profile import HardwareClass
from stages.types import Stage

RATE_HALF_LIFE_S: Mapping[Stage, float] = {Stage.ENCODE: 15.0, Stage.PREFILL: 30.0, Stage.DECODE: 30.0}
"""Of the rates that size a stage: encode follows bursts of images, the others their mean."""
MIX_HALF_LIFE_S = 300.0
"""Of what an average request looks like: lengths and cache hits."""
VARIABILITY_HALF_LIFE_S = 900.0
"""Of the moments of work per window; a second moment needs many windows to settle."""
STALE_S = 30.0
"""A sample older than this says nothing of now."""
IDLE_S = 60.0
"""Without a request for so long and with none in the system, a service is idle."""
PRIOR_VARIABILITY = 10.0
"""ca² + cs² before it is measured: images come several at once, and a replica too many goes in minutes."""
_VARIABILITY_RANGE = (0.2, 200.0)


class Decayed(NamedTuple):
    """A total of which the past counts less and less: both halves of a mean are decayed alike.

    Attributes:
        amount: Decayed sum of the increments.
        weight: Decayed sum of what they are divided by: seconds, requests or windows.
    """

    amount: float = 0.0
    weight: float = 0.0

    def add(self, amount: float, weight: float, keep: float) -> "Decayed":
        """Return it with an increment, after the past was multiplied by `keep`."""
        return Decayed(self.amount * keep + amount, self.weight * keep + weight)

    def mean(self, default: float = 0.0) -> float:
        """Return amount over weight."""
        return self.amount / self.weight if self.weight > 0.0 else default


NOTHING = Decayed()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Smoothed figures of one stage."""

    offered: Decayed = NOTHING
    done: Decayed = NOTHING
    job_units: Decayed = NOTHING
    bin_units: Decayed = NOTHING
    bin_units_squared: Decayed = NOTHING
    wait: Decayed = NOTHING
    busy: Decayed = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalState:
    """What `summarize` remembers.

    Attributes:
        sample: The last one taken in.
        asked_s: When a request was last seen to have come.
    """

    sample: ServiceSample | None = None
    asked_s: float = 0.0
    requests: Decayed = NOTHING
    text: Decayed = NOTHING
    images: Decayed = NOTHING
    image_hits: Decayed = NOTHING
    prompt_hits: Decayed = NOTHING
    output: Decayed = NOTHING
    prompt: Decayed = NOTHING
    attained: Decayed = NOTHING
    stages: Mapping[Stage, StageMemory] = field(default_factory=lambda: dict.fromkeys(Stage, StageMemory()))


def summarize(
    sample: ServiceSample | None,
    replicas: Iterable[PlacedReplica],
    policy: ControlPolicy,
    state: SignalState,
    now_s: float,
) -> tuple[Signals, SignalState]:
    """Return a service's signals, and what to remember for the next time.

    Args:
        sample: The latest, or None if none was to be had.
        replicas: The service's own.
        policy: The service's.
        state: What the last call returned; `SignalState()` at first.
        now_s: On the clock of the samples.
    """
    state = _take_in(sample, state, now_s)
    latest = state.sample
    mix = _mix(state, policy)
    counts = _counts(replicas, policy, now_s)
    fresh = latest is not None and now_s - latest.at_s <= STALE_S
    stages = {
        stage: _stage_signals(stage, latest, state.stages[stage], counts[stage], mix, policy, fresh)
        for stage in Stage
    }
    signals = Signals(
        fresh=fresh,
        idle=_idle(latest, state, now_s),
        requests=state.requests.mean(),
        text_tokens=state.text.mean(),
        image_tokens=state.images.mean(),
        embedding_hits=state.image_hits.mean(),
        prefix_hits=state.prompt_hits.mean(),
        output_tokens=mix.output_tokens,
        prefill_tokens=mix.prompt_tokens,
        attainment=state.attained.mean() if state.attained.weight > 0.5 else None,
        ttft_ratio=latest.ttft_ratio if latest else None,
        tpot_ratio=latest.tpot_ratio if latest else None,
        stages=stages,
    )
    return signals, state


def _take_in(sample: ServiceSample | None, state: SignalState, now_s: float) -> SignalState:
    before = state.sample
    if sample is None or (before is not None and sample.at_s <= before.at_s):
        return state
    if before is None or sample.requests < before.requests:  # the first, or of a counter that began anew
        return SignalState(sample=sample, asked_s=now_s, stages=state.stages)
    passed_s = sample.at_s - before.at_s
    fast, slow = _keep(passed_s, 30.0), _keep(passed_s, MIX_HALF_LIFE_S)
    asked = sample.requests - before.requests
    prompts = sample.stages[Stage.PREFILL].offered_jobs - before.stages[Stage.PREFILL].offered_jobs
    offered = sample.stages[Stage.PREFILL].offered_units - before.stages[Stage.PREFILL].offered_units
    ended = sample.finished - before.finished
    judged = sample.judged - before.judged
    return SignalState(
        sample=sample,
        asked_s=now_s if asked else state.asked_s,
        requests=state.requests.add(asked, passed_s, fast),
        text=state.text.add(sample.text_tokens - before.text_tokens, passed_s, fast),
        images=state.images.add(
            sample.image_tokens - before.image_tokens,
            passed_s,
            _keep(passed_s, RATE_HALF_LIFE_S[Stage.ENCODE]),
        ),
        image_hits=state.image_hits.add(
            sample.image_hit_tokens - before.image_hit_tokens, sample.image_tokens - before.image_tokens, slow
        ),
        prompt_hits=state.prompt_hits.add(
            sample.prompt_hit_tokens - before.prompt_hit_tokens,
            sample.prompt_tokens - before.prompt_tokens,
            slow,
        ),
        output=state.output.add(sample.output_tokens - before.output_tokens, ended, slow),
        prompt=state.prompt.add(offered, prompts, slow),
        attained=state.attained.add(sample.attained - before.attained, judged, slow),
        stages={
            stage: _take_in_stage(
                stage, sample.stages[stage], before.stages[stage], passed_s, state.stages[stage]
            )
            for stage in Stage
        },
    )


def _take_in_stage(
    stage: Stage, sample: StageSample, before: StageSample, passed_s: float, memory: StageMemory
) -> StageMemory:
    keep = _keep(passed_s, RATE_HALF_LIFE_S[stage])
    slow = _keep(passed_s, VARIABILITY_HALF_LIFE_S)
    offered = sample.offered_units - before.offered_units
    bins = sample.bins - before.bins
    return StageMemory(
        offered=memory.offered.add(offered, passed_s, keep),
        done=memory.done.add(sample.done_units - before.done_units, passed_s, keep),
        job_units=memory.job_units.add(offered, sample.offered_jobs - before.offered_jobs, slow),
        bin_units=memory.bin_units.add(sample.bin_units - before.bin_units, bins, slow),
        bin_units_squared=memory.bin_units_squared.add(
            sample.bin_units_squared - before.bin_units_squared, bins, slow
        ),
        wait=memory.wait.add(
            sample.waited_s - before.waited_s, sample.started_jobs - before.started_jobs, keep
        ),
        busy=memory.busy.add(sample.busy_s - before.busy_s, passed_s, keep),
    )


def _keep(passed_s: float, half_life_s: float) -> float:
    return float(0.5 ** (passed_s / half_life_s))


def _idle(sample: ServiceSample | None, state: SignalState, now_s: float) -> bool:
    if sample is None or now_s - state.asked_s < IDLE_S:
        return False
    return not any(s.waiting_jobs or s.running_jobs for s in sample.stages.values())


def _mix(state: SignalState, policy: ControlPolicy) -> Mix:
    requests = state.requests.mean()
    profile = policy.profile
    positions = policy.kappa + profile.image_kv_positions / profile.image_tokens  # of one image token
    tokens = state.text.mean() + positions * state.images.mean()
    return Mix(
        prompt_tokens=max(1.0, state.prompt.mean(PRIOR.prompt_tokens) * (1.0 - state.prompt_hits.mean())),
        context_tokens=max(1.0, tokens / requests) if requests > 0.0 else PRIOR.context_tokens,
        output_tokens=max(1.0, state.output.mean(PRIOR.output_tokens)),
    )


class _Counts(NamedTuple):
    """Replicas of one stage; see `StageSignals`."""

    ready: int
    coming: int
    worth: float
    heaviest: float


def _counts(replicas: Iterable[PlacedReplica], policy: ControlPolicy, now_s: float) -> dict[Stage, _Counts]:
    ready, coming = dict.fromkeys(Stage, 0), dict.fromkeys(Stage, 0)
    classes: dict[Stage, Counter[tuple[str, int]]] = {stage: Counter() for stage in Stage}
    for replica in replicas:
        if replica.state is ReplicaState.READY:
            ready[replica.stage] += 1
        elif replica.state is not ReplicaState.DRAINING and not stuck(replica, policy, now_s):
            coming[replica.stage] += 1
        else:
            continue
        classes[replica.stage][replica.hardware, replica.tp] += 1
    return {
        stage: _Counts(ready[stage], coming[stage], *_worth(policy, stage, classes[stage])) for stage in Stage
    }


def _worth(
    policy: ControlPolicy, stage: Stage, classes: Mapping[tuple[str, int], int]
) -> tuple[float, float]:
    """Return what replicas of a stage are worth together, and the most that one of them is."""
    weights = {at: weight(policy, stage, *at) for at in classes}
    return sum(weights[at] * n for at, n in sorted(classes.items())), max(weights.values(), default=1.0)


def _stage_signals(
    stage: Stage,
    sample: ServiceSample | None,
    memory: StageMemory,
    counts: _Counts,
    mix: Mix,
    policy: ControlPolicy,
    fresh: bool,
) -> StageSignals:
    ready = counts.ready
    rate, job_s = _capacity(stage, mix, memory, policy)
    now = sample.stages[stage] if sample else StageSample()
    return StageSignals(
        ready=ready,
        coming=counts.coming,
        rate=rate,
        job_s=job_s,
        offered=memory.offered.mean(),
        done=memory.done.mean(),
        waiting_units=now.waiting_units,
        waiting_jobs=now.waiting_jobs,
        variability=_variability(memory),
        utilisation=min(1.0, memory.busy.mean() / ready) if ready and memory.busy.weight else None,
        wait_s=memory.wait.mean() if memory.wait.weight > 0.5 else None,
        budget_s=policy.stages[stage].budget_s,
        kv_usage=now.kv_usage,
        fresh=fresh and now.complete,
        worth=counts.worth,
        heaviest=counts.heaviest,
    )


def _capacity(stage: Stage, mix: Mix, memory: StageMemory, policy: ControlPolicy) -> tuple[float, float]:
    """Return units per second of one replica on the stage's first hardware, and seconds of a job on it."""
    profile, bounds = policy.profile, policy.stages[stage]
    where = HardwareClass(bounds.hardware[0], bounds.tp)
    if where not in profile.classes(stage):
        return 0.0, 0.0
    if stage is Stage.ENCODE:
        rate = encode_rate(profile, where)
        return rate, memory.job_units.mean(profile.image_tokens) / rate
    if stage is Stage.PREFILL:
        rate = prefill_rate(profile, where)
        return rate, mix.prompt_tokens / rate
    kv_tokens = kv_capacity_tokens(profile, stage, where, policy.accelerators)
    rate = decode_rate(profile, where, mix, tpot_s=policy.tpot_s, slots=bounds.slots, kv_tokens=kv_tokens)
    return rate, mix.output_tokens * policy.tpot_s


def _variability(memory: StageMemory) -> float:
    """Return ca² + cs² of the work: Var(W) / (E(W)·w̄), with W the work of a window, w̄ that of a job.

    For independent jobs in a renewal stream, Var(W) tends to E(N)·(cs² + ca²)·w̄² in long windows.
    """
    mean, job = memory.bin_units.mean(), memory.job_units.mean()
    if mean <= 0.0 or job <= 0.0:
        return PRIOR_VARIABILITY
    variance = memory.bin_units_squared.mean() - mean * mean
    low, high = _VARIABILITY_RANGE
    return min(high, max(low, variance / (mean * job)))
