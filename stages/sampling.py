"""From logits to a token: greedy, or temperature and nucleus with a counter-based generator."""

import numpy as np

from stages.numerics import Array
from stages.types import Sampling

_COUNTER_STRIDE = 1 << 64
_KEY_MASK = (1 << 128) - 1


def sample(logits: Array, sampling: Sampling, index: int) -> int:
    """Return the token with this `index` in its completion, from its logits [vocabulary].

    A pure function: the draw depends on (seed, index) alone, so a retry repeats it. Ties go to the
    lowest id.
    """
    if sampling.temperature <= 0.0:
        return int(logits.argmax())
    return nucleus(logits, sampling.temperature, sampling.top_p, uniform(sampling.seed, index))


def uniform(seed: int, index: int) -> float:
    """Return the draw in [0, 1) of token `index`: Philox with key `seed` and a counter of its own."""
    generator = np.random.Philox(key=seed & _KEY_MASK, counter=index * _COUNTER_STRIDE)
    return float(np.random.Generator(generator).random())


def nucleus(logits: Array, temperature: float, top_p: float, draw: float) -> int:
    """Return the token at quantile `draw` of the smallest set of likeliest tokens with mass ≥ top_p.

    Holtzman et al., arXiv:1904.09751. Computed in float64.
    """
    scaled = logits.astype(np.float64) / temperature
    mass = np.exp(scaled - scaled.max())
    mass /= mass.sum()
    # All tokens below this mass weigh less than 1 - top_p together: none is in the nucleus.
    likely = np.flatnonzero(mass >= (1.0 - top_p) / len(mass))
    order = likely[np.argsort(-mass[likely], kind="stable")]
    cumulative = np.cumsum(mass[order])
    kept = min(int(np.searchsorted(cumulative, top_p)) + 1, len(order))
    at = int(np.searchsorted(cumulative[:kept], draw * cumulative[kept - 1], side="right"))
    return int(order[min(at, kept - 1)])
