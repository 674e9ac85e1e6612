"""Fleets, services and plans for tests of placement."""

from dataclasses import dataclass

from hypothesis import strategies as st

from orchestrator.core.observed import Node, PlacedReplica, ReplicaState, Snapshot
from orchestrator.core.orders import NodePool
from orchestrator.core.planned import (
    ControlPolicy,
    EdgeLevels,
    ScalePlan,
    ScaleReason,
    StageBounds,
    StagePlan,
)
from orchestrator.core.profile import (
    Accelerator,
    ColdStart,
    DecodeTiming,
    EncodeTiming,
    HardwareClass,
    ModelProfile,
    PrefillTiming,
)
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.static import StaticParams
from stages.types import Stage

E, P, D = Stage.ENCODE, Stage.PREFILL, Stage.DECODE

SPEED = {"l4": 0.5, "a100": 1.0, "h100": 2.5}
COST = {"l4": 0.8, "a100": 3.0, "h100": 6.0}
ACCELERATORS = {
    name: Accelerator(name=name, memory_bytes=1 << 40, cost_per_h=cost) for name, cost in COST.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingParams(StaticParams):
    """Fixed counts of replicas that may take another role."""

    role_switch: bool = True


def profile(speed=SPEED):
    """Every stage is as fast as its hardware, relative to a100, whatever its tp."""
    at = {HardwareClass(name, tp): 1.0 / s for name, s in speed.items() for tp in (1, 2, 4, 8)}
    start = ColdStart(node_s=(0.0, 0.0), pull_s=(0.0, 0.0), load_s=(0.0, 0.0))
    return ModelProfile(
        model="m",
        kappa=1,
        image_tokens=100,
        embedding_bytes=1,
        preprocess_s=0.0,
        kv_bytes_per_token=1,
        weights_bytes=dict.fromkeys(Stage, 1),
        chunk_tokens=1000,
        encode={where: EncodeTiming(image_s=s) for where, s in at.items()},
        prefill={where: PrefillTiming(points=((1000, s),), floor_s=0.0) for where, s in at.items()},
        decode={
            where: DecodeTiming(step_s=0.0, sequence_s=s / 1000.0, context_token_s=0.0)
            for where, s in at.items()
        },
        cold_start=dict.fromkeys(Stage, start),
    )


def policy(
    service="s",
    *,
    edges=(0, 0),
    hardware=("a100",),
    tp=1,
    budget=None,
    speed=SPEED,
    levels=("cluster", "block", "rack"),
    switch=False,
):
    """`hardware` and `tp` hold for all stages, or are mappings by stage."""
    each = hardware if isinstance(hardware, dict) else dict.fromkeys(Stage, hardware)
    size = tp if isinstance(tp, dict) else dict.fromkeys(Stage, tp)
    return ControlPolicy(
        service=service,
        kappa=1,
        scaling="static",
        params=CoupledParams(role_switch=switch),
        stages={
            stage: StageBounds(
                hardware=tuple(each[stage]), tp=size[stage], min=0, max=99, slots=8, budget_s=1.0
            )
            for stage in Stage
        },
        ttft_s=1.0,
        tpot_s=0.05,
        attainment=0.99,
        budget=budget,
        levels=levels,
        edges=EdgeLevels(encode_prefill=edges[0], prefill_decode=edges[1]),
        profile=profile(speed),
        accelerators=ACCELERATORS,
    )


def plan(encode=0, prefill=0, decode=0):
    counts = {E: encode, P: prefill, D: decode}
    return ScalePlan(
        stages={s: StagePlan(replicas=n, need=float(n), reason=ScaleReason.FIXED) for s, n in counts.items()}
    )


def node(name, hardware="a100", accelerators=8, domain=(), ready=True):
    """`domain` may be written "cluster/block/rack"."""
    path = tuple(domain.split("/")) if isinstance(domain, str) else tuple(domain)
    return Node(node_id=name, hardware=hardware, accelerators=accelerators, domain=path, ready=ready)


def replica(name, stage, node_id, *, service="s", hardware="a100", tp=1, state=ReplicaState.READY, **more):
    return PlacedReplica(
        replica_id=name,
        service=service,
        stage=stage,
        hardware=hardware,
        tp=tp,
        node_id=node_id,
        state=state,
        **more,
    )


def snapshot(nodes=(), replicas=(), **more):
    return Snapshot(services={}, replicas=tuple(replicas), nodes=tuple(nodes), **more)


HARDWARE = st.sampled_from(["a100", "h100", "l4"])


@st.composite
def nodes(draw, most=12):
    """A fleet of up to three levels; some nodes are not ready, some have fewer labels."""
    types = draw(st.sampled_from([["a100"], ["a100", "h100"], ["a100", "h100", "l4"]]))
    made = []
    for i in range(draw(st.integers(most // 3, most))):
        path = (draw(st.sampled_from("AB")), draw(st.sampled_from("xy")), draw(st.sampled_from("12")))
        path = path[: draw(st.sampled_from([3, 3, 3, 3, 1]))]
        made.append(
            node(
                f"n{i:02d}",
                draw(st.sampled_from(types)),
                draw(st.sampled_from([8, 4, 2])),
                path,
                ready=draw(st.sampled_from([True, True, True, True, False])),
            )
        )
    return made


@st.composite
def node_pools(draw):
    """None, or up to two; some let the cluster of a new node be chosen, some let nothing."""
    return [
        NodePool(
            name=f"pool{i}",
            hardware=draw(HARDWARE),
            accelerators=draw(st.sampled_from([8, 4])),
            most=draw(st.integers(0, 3)),
            domains=draw(st.sampled_from([((),), (("A",),), (("A",), ("B",))])),
        )
        for i in range(draw(st.sampled_from([0, 0, 1, 2])))
    ]


@st.composite
def policies(draw, most=3):
    """Up to three services, each with own hardware, sizes, levels and budget."""
    made = {}
    for name in "abc"[: draw(st.integers(1, most))]:
        lists = st.lists(HARDWARE, min_size=1, max_size=3, unique=True)
        shared = draw(lists)
        made[name] = policy(
            name,
            edges=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
            hardware={s: draw(st.one_of(st.just(shared), st.just(shared), lists)) for s in Stage},
            tp={s: draw(st.sampled_from([1, 2, 4])) for s in Stage},
            budget=draw(st.sampled_from([None, None, 8, 24])),
            switch=draw(st.booleans()),
        )
    return made


@st.composite
def strays(draw, services, fleet):
    """Replicas that nobody placed: anywhere, or on a node that is gone."""
    made = []
    for i in range(draw(st.integers(0, 3))):
        service, stage = draw(st.sampled_from(sorted(services))), draw(st.sampled_from(Stage))
        made.append(
            replica(
                f"stray{i}",
                stage,
                draw(st.sampled_from([*[n.node_id for n in fleet], "gone"])),
                service=service,
                hardware=draw(HARDWARE),
                tp=draw(st.sampled_from([1, 2])),
                group=draw(st.sampled_from(["", f"{service}-0"])),
            )
        )
    return made


@st.composite
def plans(draw, services, most=5):
    return {name: plan(*(draw(st.integers(0, most)) for _ in Stage)) for name in services}
