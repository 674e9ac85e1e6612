"""Products and norms whose rows are independent, on whatever kernels this machine has."""

import numpy as np
import pytest

from stages.numerics import BlockedWeight, linear, padded, rms_norm, silu_gate

RNG = np.random.default_rng(5)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("width", "out"), [(128, 384), (128, 37), (384, 128), (576, 128), (1536, 64), (80, 272)]
)
@pytest.mark.parametrize(
    "form",
    [
        BlockedWeight.of,
        BlockedWeight.over,
        pytest.param(lambda w: BlockedWeight.over(w.T.copy().T), id="tied-embedding"),
    ],
)
def test_a_row_has_the_same_bits_among_any_number_of_rows(width, out, form):
    weight, row = form(floats(width, out)), floats(width)
    seen = set()
    for count in (1, 8, 13, 40):
        for place in range(count):
            rows = floats(count, width) * 10
            rows[place] = row
            seen.add(linear(padded(rows), weight)[place].tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("count", [1, 8, 20])
@pytest.mark.parametrize("out", [3, 64, 100])
def test_blocks_and_tiles_cover_the_product(count, out):
    weight, rows = floats(16, out), floats(count, 16)
    for form in (BlockedWeight.of, BlockedWeight.over):
        product = linear(padded(rows), form(weight))[:count]
        np.testing.assert_allclose(product, rows @ weight, rtol=1e-4, atol=1e-5)


def test_a_view_stays_a_view():
    """A memory map that several processes share is not copied."""
    weight = floats(16, 128)
    assert np.shares_memory(BlockedWeight.over(weight).blocks, weight)
    embedding = floats(128, 16)
    assert np.shares_memory(BlockedWeight.over(embedding.T).blocks, embedding)


def test_nans_stay_in_their_row():
    rows = floats(8, 16)
    expected = linear(rows, BlockedWeight.of(np.ones((16, 5), np.float32)))
    rows[3] = np.nan
    found = linear(rows, BlockedWeight.of(np.ones((16, 5), np.float32)))
    assert np.isnan(found[3]).all()
    assert np.array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))


def test_rms_norm_scales_to_unit_mean_square():
    x = rms_norm(floats(7, 128) * 50, np.ones(128, np.float32), np.float32(1e-5))
    np.testing.assert_allclose((x * x).mean(-1), 1.0, rtol=1e-4)


def test_silu_of_extreme_gates_is_zero_or_the_gate():
    gate_up = np.array([[-1000.0, 0.0, 1000.0, 2.0, 2.0, 2.0]], np.float32)
    with np.errstate(over="ignore"):
        assert silu_gate(gate_up).tolist() == [[0.0, 0.0, 2000.0]]
