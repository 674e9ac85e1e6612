"""The cheapest placement of all, by trying them on a few nodes: what `place` is measured against."""

import math
from functools import cache

from orchestrator.core.groups import stage_levels
from orchestrator.core.hardware import options
from stages.types import Stage

ORDER = (Stage.PREFILL, Stage.DECODE, Stage.ENCODE)


def cheapest(plans, policies, nodes, *, one_group=False):
    """Return the least cost per hour at which all is placed on an empty fleet; None if it cannot be.

    A placement is how many replicas each stage has in each cell: a hardware type in an innermost domain.
    Prefill and decode need each other within the levels of their edge, encode needs prefill within its own.

    Args:
        one_group: Whether all replicas of a service have to share the levels, rather than each with some.
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
    """Return every minimal way to reach a need, as (cost, {cell: replicas}), cheapest first."""
    choices = [
        (cell, option, sum(free // option.tp for free in cells[cell]))
        for option in options(policy, stage)
        for cell in sorted(cells)
        if cell[1] == option.hardware
    ]
    found = []

    def extend(at, left, used, cost):
        if left <= 1e-6:
            found.append((cost, dict(used)))
            return
        if at == len(choices):
            return
        cell, option, most = choices[at]
        for count in range(min(most, math.ceil(left / option.weight - 1e-6)) + 1):
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

    def extend(at, cost, load, homes):
        nonlocal best
        if at == len(jobs):
            best = cost
            return
        name, stage, ways = jobs[at]
        for more, way in ways:
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
    for at, free in enumerate(bins):
        another = free >= sizes[0] and (at == 0 or bins[at - 1] != free)
        if another and _packs(sizes[1:], tuple(sorted((*bins[:at], free - sizes[0], *bins[at + 1 :])))):
            return True
    return False
