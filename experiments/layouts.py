"""How a hundred or so accelerators can be split over stages, and which split is the best for a load."""

from collections.abc import Sequence
from functools import partial
from itertools import product

from experiments.goodput import Bench, Layout, bound_per_s, goodputs, slowdown, stage_gpu_s
from stages.types import Stage

E, P, D = Stage
TP = 4
"""Accelerators of a replica with the language model; an encoder has one."""
TUNING_SEEDS = (1_000, 1_001)
"""Splits are tuned on other requests than they are judged on."""


def monolith(system: str, gpus: int) -> Layout:
    """Return replicas that do everything."""
    return Layout(system=system, counts={E: gpus // TP}, tp={E: TP})


def encode_apart(encoders: int, gpus: int, system: str = "e-pd", *, in_order: bool = False) -> Layout:
    """Return encoders, and replicas that prefill and decode on what is left."""
    counts = {E: encoders, P: (gpus - encoders) // TP}
    return Layout(system=system, counts=counts, tp={E: 1, P: TP}, in_order=in_order)


def decode_apart(decodes: int, gpus: int) -> Layout:
    """Return replicas that decode, and some that encode and prefill on what is left."""
    return Layout(system="ep-d", counts={E: gpus // TP - decodes, D: decodes}, tp={E: TP, D: TP})


def all_apart(encoders: int, decodes: int, gpus: int) -> Layout:
    """Return three pools; prefill has what is left."""
    counts = {E: encoders, P: (gpus - encoders) // TP - decodes, D: decodes}
    return Layout(system="e-p-d", counts=counts, tp={E: 1, P: TP, D: TP})


def splits(family: str, bench: Bench, gpus: int) -> list[Layout]:
    """Return the splits of a family that tuning tries, around the one that balances the stages."""
    share = balance(bench)
    encode, decode = (_around(share[stage] * gpus / TP, gpus // TP - 1) for stage in (E, D))
    if family == "e-pd":
        return [encode_apart(TP * n, gpus) for n in encode]
    if family == "ep-d":
        return [decode_apart(n, gpus) for n in decode]
    pairs = product(encode[::2], decode[::2])
    return [all_apart(TP * e, d, gpus) for e, d in pairs if e + d < gpus // TP]


def balance(bench: Bench) -> dict[Stage, float]:
    """Return each stage's share of the accelerators at which all stages are full at once."""
    gpu_s = stage_gpu_s(bench.control, bench.work)
    return {stage: gpu_s[stage] / sum(gpu_s.values()) for stage in Stage}


def tuned(benches: Sequence[Bench], family: str, gpus: int, factors: Sequence[float]) -> list[Layout]:
    """Return the best split of a family for each SLO factor: the one whose worst goodput is the highest.

    Args:
        benches: Several, for a split that is right for one draw of requests may be wrong for the next.
        family: See `splits`.
        gpus: To be split.
        factors: SLO factors.
    """
    candidates = splits(family, benches[0], gpus)
    found = [[_goodputs(bench, layout, gpus, factors) for bench in benches] for layout in candidates]
    worst = [[min(column) for column in zip(*rows, strict=True)] for rows in found]
    best = [max(range(len(candidates)), key=partial(_at, worst, index)) for index in range(len(factors))]
    return [candidates[number] for number in best]


def _goodputs(bench: Bench, layout: Layout, gpus: int, factors: Sequence[float]) -> list[float]:
    most = bound_per_s(bench.control, bench.work, gpus)
    return goodputs(partial(slowdown, bench, layout, seed=0), factors, most)


def _at(goodput: Sequence[Sequence[float]], index: int, candidate: int) -> float:
    return goodput[candidate][index]


def _around(replicas: float, most: int) -> list[int]:
    """Return five numbers of replicas from three fifths to five thirds of the given."""
    found = [round(replicas * factor) for factor in (0.6, 0.77, 1.0, 1.3, 1.67)]
    return sorted({min(max(1, n), most) for n in found})
