"""A service to scale: signals, policies of control, and a toy plant that follows plans after a lead."""

from collections import deque
from dataclasses import replace

from hypothesis import strategies as st

from orchestrator.core.autoscaler import plan
from orchestrator.core.observed import Signals, StageSignals
from orchestrator.core.planned import ControlPolicy, ScalerState, StageBounds
from orchestrator.core.profile import ModelProfile
from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.periodic import Hour
from stages.types import Stage

E, P, D = Stage.ENCODE, Stage.PREFILL, Stage.DECODE
RATES = {E: 20_000.0, P: 15_000.0, D: 1_200.0}
JOBS_S = {E: 0.07, P: 0.1, D: 5.0}
LEADS_S = {E: 60.0, P: 200.0, D: 200.0}
PARAMS = {
    "static-best": {"encode": 3, "prefill": 4, "decode": 5},
    "periodic": {"hours": (Hour(hour=0.0, encode=2, prefill=3, decode=4),)},
    "oracle": {"times_s": (0.0, 600.0), "counts": {E: (2, 3), P: (3, 5), D: (4, 4)}},
    "oracle-zero-lag": {"times_s": (0.0, 600.0), "counts": {E: (2, 3), P: (3, 5), D: (4, 4)}},
}
FOLLOWING = sorted(name for name, scaler in SCALERS.items() if scaler.follows_load)
PROFILE = ModelProfile(
    model="toy",
    kappa=1,
    image_tokens=1_280,
    embedding_bytes=1,
    preprocess_s=0.0,
    kv_bytes_per_token=1,
    weights_bytes=dict.fromkeys(Stage, 1),
    chunk_tokens=2_048,
    encode={},
    prefill={},
    decode={},
    cold_start={},
)


def control(name="coupled", *, kappa=1, bounds=None, budget=None, **params):
    """Return a control policy; `bounds` are (min, max) by stage, for all that are not named (1, 64)."""
    limits = dict.fromkeys(Stage, (1, 64)) | (bounds or {})
    return ControlPolicy(
        service="toy",
        kappa=kappa,
        scaling=name,
        params=SCALERS[name].params(**{**PARAMS.get(name, {}), **params}),
        stages={
            stage: StageBounds(
                hardware=("a100",),
                tp=1,
                min=low,
                max=high,
                slots=32,
                budget_s=0.5,
                lead_s=LEADS_S[stage],
            )
            for stage, (low, high) in limits.items()
        },
        ttft_s=2.0,
        tpot_s=0.05,
        attainment=0.99,
        budget=budget,
        profile=PROFILE,
        accelerators={},
    )


def stage(which, ready=4, coming=0, **more):
    """Return one stage's signals."""
    return StageSignals(
        **{"ready": ready, "coming": coming, "rate": RATES[which], "job_s": JOBS_S[which], "budget_s": 0.5}
        | more
    )


def service(*, counts=(4, 4, 4), requests=10.0, text=10_000.0, images=20_000.0, stages=None, **more):
    """Return the signals of a service that gets done what is offered, without backlog.

    Args:
        counts: Ready replicas of encode, prefill and decode.
        stages: Fields of `StageSignals` by stage, in place of these.
    """
    offered = {E: images, P: text + images, D: requests * 200.0}
    seen = {}
    for which, ready in zip(Stage, counts, strict=True):
        load = offered[which] / RATES[which]
        fields = {
            "ready": ready,
            "offered": offered[which],
            "done": min(offered[which], ready * RATES[which]),
            "utilisation": min(1.0, load / ready) if ready else None,
        }
        seen[which] = stage(which, **(fields | (stages or {}).get(which, {})))
    return Signals(
        **{
            "fresh": True,
            "requests": requests,
            "text_tokens": text,
            "image_tokens": images,
            "output_tokens": 200.0,
            "prefill_tokens": max(1.0, (text + images) / max(requests, 1e-9)),
            "stages": seen,
        }
        | more
    )


def counts_of(scale_plan):
    """Return planned replicas as a tuple in the order of the stages."""
    return tuple(scale_plan.stages[s].replicas for s in Stage)


class Plant:
    """Replicas follow the plan: a new one comes at once and is ready after its stage's lead."""

    def __init__(self, policy, counts, **load):
        self.policy, self.load, self.state = policy, load, ScalerState()
        self.ready = dict(zip(Stage, counts, strict=True))
        self.coming = {s: deque() for s in Stage}
        self.now_s = 0.0

    def signals(self):
        calm = service(counts=tuple(self.ready.values()), **self.load)
        busy = max(s.utilisation or 0.0 for s in calm.stages.values())
        slow = 2.0 if busy >= 1.0 else 0.3 + 0.6 * busy
        seen = {
            s: replace(
                signals,
                coming=len(self.coming[s]),
                kv_usage=0.99 * (signals.utilisation or 0.0),
                waiting_jobs=10 * self.ready[s] if (signals.utilisation or 1.0) >= 1.0 else 0,
                wait_s=1.0 if (signals.utilisation or 1.0) >= 1.0 else 0.05,
            )
            for s, signals in calm.stages.items()
        }
        return replace(
            calm, stages=seen, ttft_ratio=slow, tpot_ratio=slow, attainment=1.0 if slow < 1 else 0.5
        )

    def step(self, period_s=5.0):
        """Decide once and let time pass; return what was planned."""
        decided, self.state = plan(self.signals(), self.policy, self.state, self.now_s)
        for s in Stage:
            self._follow(s, decided.stages[s].replicas)
        self.now_s += period_s
        return decided

    def _follow(self, s, replicas):
        coming = self.coming[s]
        while coming and coming[0] <= self.now_s:
            coming.popleft()
            self.ready[s] += 1
        while self.ready[s] + len(coming) < replicas:
            coming.append(self.now_s + LEADS_S[s])
        while self.ready[s] + len(coming) > replicas:
            if coming:
                coming.pop()
            else:
                self.ready[s] -= 1


loads = st.fixed_dictionaries(
    {
        "requests": st.floats(0.1, 60.0),
        "text": st.floats(100.0, 200_000.0),
        "images": st.floats(0.0, 200_000.0),
    }
)
counts = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
backlogs = st.fixed_dictionaries(
    {
        "waiting_units": st.floats(0.0, 1e6),
        "waiting_jobs": st.floats(0.0, 1e3),
        "variability": st.floats(0.2, 200.0),
        "coming": st.integers(0, 5),
        "kv_usage": st.floats(0.0, 1.0),
        "wait_s": st.none() | st.floats(0.0, 10.0),
    }
)
ratios = st.none() | st.floats(0.0, 5.0)


@st.composite
def any_signals(draw, **more):
    """Return signals of a service in any condition."""
    return service(
        counts=draw(counts),
        stages={s: draw(backlogs) for s in Stage},
        ttft_ratio=draw(ratios),
        tpot_ratio=draw(ratios),
        attainment=draw(st.none() | st.floats(0.0, 1.0)),
        embedding_hits=draw(st.floats(0.0, 1.0)),
        prefix_hits=draw(st.floats(0.0, 1.0)),
        **draw(loads),
        **more,
    )


@st.composite
def any_bounds(draw):
    """Return (min, max) by stage."""
    return {s: (low := draw(st.integers(0, 5)), draw(st.integers(max(1, low), 40))) for s in Stage}


@st.composite
def any_state(draw, policy):
    """Return the state after a few decisions on any signals, and the time of the last."""
    state, now_s = ScalerState(), 0.0
    for signals in draw(st.lists(any_signals(), max_size=3)):
        _, state = plan(signals, policy, state, now_s)
        now_s += draw(st.floats(0.0, 1_000.0))
    return state, now_s
