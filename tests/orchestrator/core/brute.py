"""The cheapest placement there is, by trying them all: what `place` is measured against on a few nodes."""

import math
from functools import cache

from orchestrator.core.groups import stage_levels
from orchestrator.core.hardware import options
from stages.types import Stage
from tests.orchestrator.core import fleets

MOST_VISITS = 100_000
"""Problems that need more are too large to be tried out."""
MOST_WAYS = 20_000
ORDER = (Stage.PREFILL, Stage.DECODE, Stage.ENCODE)


class TooLargeError(Exception):
    """There is too much to try."""


def cheapest(plans, policies, nodes, *, one_group=False):
    """Return the least cost per hour at which all is placed on an empty fleet; None if it cannot be.

    A placement is how many replicas each stage has in each cell: a hardware type in an innermost domain.
    Prefill and decode need each other within the levels of their edge, encode needs prefill within its own.

    Args:
        one_group: Whether all replicas of a service have to share the levels, rather than each with some.

    Raises:
        TooLargeError: There is too much to try.
    """
    cells = {}
    for node in nodes:
        if node.ready:
            cells.setdefault((node.domain, node.hardware), []).append(node.accelerators)
    jobs = []
    for name in sorted(policies):
        for stage in ORDER:
            need = plans[name].stages[stage].replicas
            if need:
                jobs.append((name, stage, _ways(policies[name], stage, need, cells)))
    if not all(ways for _, _, ways in jobs):
        return None
    return _search(jobs, policies, cells, one_group)


def _ways(policy, stage, need, cells):
    """Return every way to reach a need, as (cost, {cell: replicas}), cheapest first.

    None has more in a cell than what is left needs, but for one replica, as a partner for other stages.
    """
    linked = stage is not Stage.ENCODE and max(stage_levels(policy.edges).values()) > 0
    choices = [
        (cell, option, sum(free // option.tp for free in cells[cell]))
        for option in options(policy, stage)
        for cell in sorted(cells)
        if cell[1] == option.hardware
    ]
    found = []

    def extend(at, left, used, cost):
        if len(found) > MOST_WAYS:
            raise TooLargeError
        if at == len(choices) or (left <= 1e-6 and not linked):
            if left <= 1e-6:
                found.append((cost, dict(used)))
            return
        cell, option, most = choices[at]
        enough = max(math.ceil(left / option.weight - 1e-6), int(linked))
        for count in range(min(most, enough) + 1):
            if count:
                used[cell] = count
            extend(at + 1, left - count * option.weight, used, cost + count * option.cost_per_h)
        used.pop(cell, None)

    extend(0, float(need), {}, 0.0)
    return sorted(found, key=lambda way: way[0])


def _search(jobs, policies, cells, one_group):
    least = [ways[0][0] for _, _, ways in jobs]
    rest = [sum(least[at:]) for at in range(len(jobs) + 1)]
    best = None
    visits = 0

    def extend(at, cost, load, homes):
        nonlocal best, visits
        if at == len(jobs):
            best = cost
            return
        name, stage, ways = jobs[at]
        for more, way in ways:
            visits += 1
            if visits > MOST_VISITS:
                raise TooLargeError
            if best is not None and cost + more + rest[at + 1] >= best - 1e-9:
                return
            tp = policies[name].stages[stage].tp
            after = {**load}
            for cell, count in way.items():
                after[cell] = tuple(sorted((*after.get(cell, ()), *[tp] * count), reverse=True))
            if not all(_packs(after[cell], tuple(sorted(cells[cell]))) for cell in way):
                continue
            own = {**homes.get(name, {}), stage: {cell[0] for cell in way}}
            last = at + 1 == len(jobs) or jobs[at + 1][0] != name
            if not last or _linked(own, policies[name].edges, one_group):
                extend(at + 1, cost + more, after, {**homes, name: own})

    extend(0, 0.0, {}, {})
    return best


def _linked(homes, edges, one_group):
    if one_group:
        levels = stage_levels(edges)
        path = ()
        for stage, domains in homes.items():
            for domain in domains:
                prefix = domain[: levels[stage]]
                shorter, longer = sorted((path, prefix), key=len)
                if len(prefix) < levels[stage] or longer[: len(shorter)] != shorter:
                    return False
                path = longer
        return True
    prefill = homes.get(Stage.PREFILL)
    pairs = [
        (homes.get(Stage.DECODE), prefill, edges.prefill_decode),
        (prefill, homes.get(Stage.DECODE), edges.prefill_decode),
        (homes.get(Stage.ENCODE), prefill, edges.encode_prefill),
    ]
    return all(_near(some, others, level) for some, others, level in pairs if some and others)


def _near(some, others, level):
    ends = {domain[:level] for domain in others}
    return all(len(domain) >= level and domain[:level] in ends for domain in some)


@cache
def _packs(sizes, bins):
    """Whether replicas, largest first, go into nodes, by trying every node for each."""
    if not sizes:
        return True
    return any(
        _packs(sizes[1:], tuple(sorted((*bins[:at], free - sizes[0], *bins[at + 1 :]))))
        for at, free in enumerate(bins)
        if free >= sizes[0] and (at == 0 or bins[at - 1] != free)
    )


def problem(rng, services=2):
    """Return (plans, policies, nodes) at random: up to 12 nodes, two levels and two services."""
    types = rng.choice([["a100", "h100"], ["a100", "h100", "l4"], ["a100"]])
    depth, plain = rng.choice([1, 2]), rng.random() < 0.5
    type_of = {}
    nodes = []
    for i in range(rng.randint(3, 12)):
        path = (rng.choice("AB"), rng.choice("xy"))[:depth]
        hardware = type_of.setdefault(path, rng.choice(types)) if plain else rng.choice(types)
        nodes.append(fleets.node(f"n{i:02d}", hardware, rng.choice([2, 4, 8, 8]), path))
    policies, plans = {}, {}
    for name in "ab"[: rng.randint(1, services)]:
        shared = rng.sample(types, rng.randint(1, len(types)))
        policies[name] = fleets.policy(
            name,
            edges=(rng.randint(0, 1), rng.randint(0, depth)),
            hardware={
                stage: shared if rng.random() < 0.6 else rng.sample(types, rng.randint(1, len(types)))
                for stage in Stage
            },
            tp={stage: rng.choice([1, 2, 4]) for stage in Stage},
        )
        plans[name] = fleets.plan(rng.randint(0, 3), rng.randint(1, 3), rng.randint(1, 5))
    return plans, policies, nodes


def cost(creates):
    """Return US dollars per hour."""
    return sum([fleets.COST[create.hardware] * create.tp for create in creates])
