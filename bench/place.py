"""`place`: how long placement takes for 200 services on 5,000 nodes, 40,000 accelerators."""

import gc
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle, islice, product

from bench.report import Figure, Say, figure
from orchestrator.core.observed import Node, ReplicaState, Snapshot
from orchestrator.core.planned import (
    ControlPolicy,
    EdgeLevels,
    ScalePlan,
    ScaleReason,
    StageBounds,
    StagePlan,
)
from orchestrator.core.scheduler import Placement, apply, diff, place
from orchestrator.profiles import find_profile, load_accelerators
from stages.types import Stage

SERVICES = 200
NODES = 5_000
GOAL = "<= 0.6"
_PER_NODE = 8
_PER_RACK = 5
_PER_BLOCK = 50
_PER_CLUSTER = 1_250
_CYCLE = 50
"""Services and nodes repeat: a fleet twice as large is two of the same."""
_CHANGED = 0.1
_FILL = 0.75
_SHORT = 1.1
"""Pairs of prefill and decode wanted for each node where there are too few."""
_LEVELS = ("cluster", "block", "rack")
_EDGES = (EdgeLevels(encode_prefill=1, prefill_decode=2), EdgeLevels(prefill_decode=1), EdgeLevels())
_HARDWARE = (("h100", "a100"), ("a100",), ("a100", "h100"), ("a40", "a100"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Services on nodes, of which a part is in use."""

    policies: Mapping[str, ControlPolicy]
    plans: Mapping[str, ScalePlan]
    snapshot: Snapshot


def run(say: Say, quick: bool) -> list[Figure]:
    """Place on fleets of several sizes: from nothing, short of room, unchanged, a tenth changed."""
    rounds = 2 if quick else 7
    figures: list[Figure] = []
    changes: dict[int, float] = {}
    shortages: dict[int, float] = {}
    for parts in (4, 2, 1):
        say(f"{SERVICES // parts} services on {NODES // parts} nodes")
        empty = fleet(SERVICES // parts, NODES // parts)
        from_nothing_s, placement = _timed(empty)
        settled = _ready(empty, placement)
        edited = _edited(settled)
        steady = [_timed(settled)[0] for _ in range(rounds)]
        changing = [_timed(edited)[0] for _ in range(rounds)]
        changes[NODES // parts] = min(changing)
        goal = GOAL if parts == 1 else ""
        short_s = _timed(short(SERVICES // parts, NODES // parts))[0]
        shortages[NODES // parts] = short_s
        name = f"place.{NODES // parts}"
        figures += [
            figure(f"{name}.replicas", [float(len(settled.snapshot.replicas))], ""),
            figure(f"{name}.from_nothing", [from_nothing_s], "s"),
            figure(f"{name}.short", [short_s], "s"),
            figure(f"{name}.steady", steady, "s", goal),
            figure(f"{name}.changes", changing, "s", goal),
        ]
    return [
        *figures,
        figure("place.growth", [_exponent(changes)], "", "<= 1.15"),
        figure("place.short.growth", [_exponent(shortages)], "", "<= 1.25"),
    ]


def fleet(services: int, nodes: int, seed: int = 0) -> Fleet:
    """Return an empty fleet and plans that fill three quarters of it."""
    rng = random.Random(seed)
    profile, accelerators = find_profile("internvl-2.5-26b"), load_accelerators()
    policies, plans = {}, {}
    for i, (edges, hardware) in enumerate(islice(cycle(product(_EDGES, _HARDWARE)), services)):
        name = f"service{i:03d}"
        sizes = {Stage.ENCODE: 1, Stage.PREFILL: 4, Stage.DECODE: 4}
        policies[name] = ControlPolicy(
            service=name,
            kappa=1,
            scaling="static",
            params=None,
            stages={
                stage: StageBounds(hardware=hardware, tp=tp, min=0, max=999, slots=64, budget_s=1.0)
                for stage, tp in sizes.items()
            },
            ttft_s=2.0,
            tpot_s=0.05,
            attainment=0.99,
            levels=_LEVELS,
            edges=edges,
            profile=profile,
            accelerators=accelerators,
        )
        share = _FILL * nodes * _PER_NODE / services * (0.3 + 1.4 * (i % _CYCLE) / (_CYCLE - 1))
        plans[name] = _plan(encode=share * 0.2, prefill=share * 0.3 / 4, decode=share * 0.5 / 4)
    return Fleet(
        policies=policies, plans=plans, snapshot=Snapshot(services={}, nodes=tuple(_nodes(nodes, rng)))
    )


def short(services: int, nodes: int) -> Fleet:
    """Return services that want more than an empty fleet has, in places as many as can be.

    Each node is a rack of its own with room for one prefill and one decode, which have to share a rack.
    """
    full = fleet(services, nodes)
    edges = EdgeLevels(prefill_decode=len(_LEVELS))
    policies = {
        name: replace(
            policy, edges=edges, stages={s: replace(b, hardware=("h100",)) for s, b in policy.stages.items()}
        )
        for name, policy in full.policies.items()
    }
    own = tuple(
        replace(each, hardware="h100", domain=(*each.domain[:1], each.node_id, each.node_id))
        for each in full.snapshot.nodes
    )
    pairs = _SHORT * nodes / services
    plans = dict.fromkeys(policies, _plan(encode=pairs, prefill=pairs, decode=pairs))
    return Fleet(policies=policies, plans=plans, snapshot=replace(full.snapshot, nodes=own))


def _nodes(number: int, rng: random.Random) -> list[Node]:
    """Return nodes in clusters of blocks of racks: three blocks in four of one type, the others mixed."""
    nodes = []
    types = ("a100", "h100", "a100", "h100", "a40")
    for i in range(number):
        cluster, place = divmod(i, _PER_CLUSTER)
        block, rack = place // _PER_BLOCK, place // _PER_RACK
        hardware = types[(rack if block % 4 == 3 else block) % len(types)]
        domain = (f"cluster{cluster}", f"block{block:02d}", f"rack{rack:03d}")
        nodes.append(Node(node_id=f"node{i:05d}", hardware=hardware, accelerators=_PER_NODE, domain=domain))
    rng.shuffle(nodes)
    return nodes


def _plan(encode: float, prefill: float, decode: float) -> ScalePlan:
    counts = {Stage.ENCODE: encode, Stage.PREFILL: prefill, Stage.DECODE: decode}
    return ScalePlan(
        stages={
            stage: StagePlan(replicas=max(1, round(need)), need=need, reason=ScaleReason.FIXED)
            for stage, need in counts.items()
        }
    )


def _ready(fleet: Fleet, placement: Placement) -> Fleet:
    after = apply(diff(placement, fleet.snapshot), fleet.snapshot)
    replicas = [replace(r, state=ReplicaState.READY) if r.node_id else r for r in after.replicas]
    return replace(fleet, snapshot=replace(after, replicas=tuple(replicas)))


def _edited(fleet: Fleet) -> Fleet:
    """Return the fleet with every plan a tenth up or down."""
    plans = {}
    for i, (name, plan) in enumerate(fleet.plans.items()):
        factor = 1.0 + (_CHANGED if i % 2 else -_CHANGED)
        plans[name] = _plan(*[plan.stages[stage].replicas * factor for stage in Stage])
    return replace(fleet, plans=plans)


def _timed(fleet: Fleet) -> tuple[float, Placement]:
    gc.collect()
    began_s = time.perf_counter()
    placement = place(fleet.plans, fleet.policies, fleet.snapshot)
    diff(placement, fleet.snapshot)
    return time.perf_counter() - began_s, placement


def _exponent(seconds: Mapping[int, float]) -> float:
    """Return the slope of log(seconds) over log(nodes): 1 is linear; n log n is 1.12 from 1,250 to 5,000."""
    small, large = min(seconds), max(seconds)
    return math.log(seconds[large] / seconds[small]) / math.log(large / small)
