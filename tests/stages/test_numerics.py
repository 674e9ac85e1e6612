"""Products and norms whose rows are independent, on whatever kernels this machine has."""

import numpy as np
import pytest

from stages.numerics import BASE_TILE_ROWS, RowTiles, rms_norm, silu_gate

RNG = np.random.default_rng(5)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("width", "out"), [(128, 384), (128, 37), (384, 128), (576, 960)])
def test_a_row_has_the_same_bits_among_any_number_of_rows(width, out):
    weight, row = floats(width, out), floats(width)
    tiles = RowTiles.verified([weight])
    seen = set()
    for count in (1, 3, 8, 9, 31, 64, 100):
        for place in {0, count // 2, count - 1}:
            rows = floats(count, width) * 10
            rows[place] = row
            seen.add(tiles.linear(tiles.padded(rows), weight)[place].tobytes())
    assert len(seen) == 1


def test_a_transposed_weight_is_as_independent():
    """Tied output embeddings are a view."""
    weight = floats(37, 128).T
    tiles = RowTiles.verified([weight])
    row = floats(1, 128)
    alone = tiles.linear(tiles.padded(row), weight)[0]
    assert np.array_equal(alone, tiles.linear(np.repeat(row, 72, axis=0), weight)[71])


def test_the_base_height_is_always_there():
    assert BASE_TILE_ROWS in RowTiles.verified([floats(64, 48)]).sizes


@pytest.mark.parametrize("count", [1, 5, 12, 20, 67])
def test_tiles_of_every_height_cover_all_rows(count):
    weight, rows = floats(16, 8), floats(count, 16)
    tiles = RowTiles((64, 32, 16, 8, 4))
    padded = tiles.padded(rows)
    assert len(padded) - count in range(4)
    np.testing.assert_allclose(tiles.linear(padded, weight)[:count], rows @ weight, rtol=1e-4, atol=1e-5)


def test_rms_norm_scales_to_unit_mean_square():
    x = rms_norm(floats(7, 128) * 50, np.ones(128, np.float32), np.float32(1e-5))
    np.testing.assert_allclose((x * x).mean(-1), 1.0, rtol=1e-4)


def test_silu_of_extreme_gates_is_zero_or_the_gate():
    gate_up = np.array([[-1000.0, 0.0, 1000.0, 2.0, 2.0, 2.0]], np.float32)
    with np.errstate(over="ignore"):
        assert silu_gate(gate_up).tolist() == [[0.0, 0.0, 2000.0]]
