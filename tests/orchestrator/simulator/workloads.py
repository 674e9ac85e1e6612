"""Workloads for tests, small and arbitrary."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from orchestrator.simulator.workload import PrefixBlocks, Workload


def workload(
    arrival_s: Sequence[float], *, images: Sequence[int] | None = None, span_s: float = 0.0
) -> Workload:
    """Return requests whose context tokens are 1, 2, 3, …, so that each can be told from the others."""
    count = len(arrival_s)
    return Workload(
        name="small",
        label="real",
        arrival_s=np.array(arrival_s, dtype=np.float64),
        images=np.array([0] * count if images is None else images, dtype=np.int32),
        context_tokens=np.arange(1, count + 1, dtype=np.int32),
        output_tokens=np.ones(count, dtype=np.int32),
        span_s=span_s or max([0.0, *arrival_s]),
    )


def blocks(rows: Sequence[Sequence[int]]) -> PrefixBlocks:
    offsets = np.cumsum([0, *map(len, rows)])
    ids = np.array([id_ for row in rows for id_ in row], dtype=np.int32)
    return PrefixBlocks(offsets=offsets, ids=ids, block_tokens=512)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    arrival_s = sorted(draw(st.lists(st.floats(0, 1e6), max_size=50)))
    images = draw(st.lists(st.integers(0, 9409), min_size=len(arrival_s), max_size=len(arrival_s)))
    span_s = max([0.0, *arrival_s]) + draw(st.floats(0, 1e3))
    return workload(arrival_s, images=images, span_s=span_s)
