"""Requests as arrays: what slicing, scaling, clipping, repeating and splicing keep."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.profiles import find_profile
from orchestrator.simulator.variant import Variant, as_variant
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload, spliced
from tests.orchestrator.simulator.workloads import blocks, workload, workloads

MODEL = find_profile("internvl-26b")


def _identities(load: Workload) -> list[int]:
    return load.context_tokens.tolist()


@given(workloads(), st.floats(0, 5), st.integers(0, 2**32 - 1))
def test_scaling_the_rate_conserves_counts_and_requests(load: Workload, rate: float, seed: int) -> None:
    """round(rate · n) requests in the same span, each original floor(rate) or floor(rate) + 1 times."""
    scaled = load.scaled(rate=rate, rng=np.random.default_rng(seed))
    copies = np.bincount(scaled.context_tokens, minlength=len(load) + 1)[1:]
    assert len(scaled) == round(rate * len(load))
    assert set(copies.tolist()) <= {int(rate), int(rate) + 1}
    assert scaled.span_s == pytest.approx(load.span_s)


@given(workloads(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_thinning_is_nested_for_one_seed(load: Workload, a: float, b: float, seed: int) -> None:
    """Common random numbers: the requests at a lower rate are among those at a higher one."""
    few, many = (load.scaled(rate=rate, rng=np.random.default_rng(seed)) for rate in sorted((a, b)))
    assert set(_identities(few)) <= set(_identities(many))


@given(workloads(), st.floats(1e-3, 1e3))
def test_scaling_time_keeps_requests_and_stretches_all_times(load: Workload, time: float) -> None:
    stretched = load.scaled(time=time)
    assert _identities(stretched) == _identities(load)
    assert np.allclose(stretched.arrival_s, load.arrival_s * time)
    assert stretched.span_s == pytest.approx(load.span_s * time)


def test_copies_fall_between_their_original_and_the_next_arrival() -> None:
    doubled = workload([0.0, 10.0, 20.0], span_s=30.0).scaled(rate=2, rng=np.random.default_rng(0))
    assert _identities(doubled) == [1, 1, 2, 2, 3, 3]
    assert doubled.arrival_s[::2].tolist() == [0.0, 10.0, 20.0]


@given(workloads(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_two_slices_that_meet_hold_all_requests_once(load: Workload, a: float, b: float) -> None:
    middle_s, end_s = sorted((a, b))
    first, second = load.slice(0, middle_s), load.slice(middle_s, end_s)
    assert _identities(first) + _identities(second) == _identities(load.slice(0, end_s))
    assert first.span_s + second.span_s == pytest.approx(end_s)


@given(workloads(), st.integers(1, 5))
def test_repeating_keeps_the_rate(load: Workload, times: int) -> None:
    repeated = load.repeated(times)
    assert len(repeated) == times * len(load)
    assert repeated.rate_per_s == pytest.approx(load.rate_per_s)


@given(workloads(), st.integers(0, 100))
def test_an_image_that_is_clipped_takes_its_tokens_with_it(load: Workload, images: int) -> None:
    clipped = load.clipped(images)
    assert np.array_equal(clipped.images, np.minimum(load.images, images))
    assert np.all(clipped.context_tokens <= load.context_tokens)
    assert np.array_equal(clipped.output_tokens, load.output_tokens)
    assert np.array_equal(clipped.clipped(images).context_tokens, clipped.context_tokens)


def test_clipping_leaves_text_as_it_is() -> None:
    load = workload([0.0, 1.0, 2.0])
    load = dataclasses.replace(
        load,
        images=np.array([0, 3, 40], np.int32),
        context_tokens=np.array([700, 3 * 576 + 90, 40 * 576 + 500], np.int32),
    )
    assert load.clipped(16).context_tokens.tolist() == [700, 3 * 576 + 90, 16 * 576 + 500]


@given(workloads(), st.integers(1, 10))
def test_images_taken_for_tiles_leave_text_as_it_is(load: Workload, tiles: int) -> None:
    """A request has the images that hold its tiles, the last perhaps not full."""
    model = dataclasses.replace(MODEL, image_tiles=tiles)
    traced, taken = (work_from_rows(rows, model) for rows in (load, as_variant(load, Variant.TILES, model)))
    assert np.array_equal(taken.images, np.ceil(load.images / tiles))
    assert np.array_equal(taken.text_tokens, traced.text_tokens)


def test_tiles_of_traced_requests() -> None:
    """Of five tiles an image: 6 tiles are two images, and text is at least 32 tokens where there is one."""
    load = dataclasses.replace(
        workload([0.0, 1.0, 2.0, 3.0]),
        images=np.array([0, 5, 6, 6], np.int32),
        context_tokens=np.array([700, 5 * 576 + 90, 6 * 576 + 500, 80], np.int32),
    )
    work = work_from_rows(as_variant(load, Variant.TILES, MODEL), MODEL)
    assert work.images.tolist() == [0, 1, 2, 2]
    assert work.text_tokens.tolist() == [700, 90, 500, 32]
    assert work.image_tokens.tolist() == [0, 1280, 2560, 2560]


def test_every_change_is_in_the_label() -> None:
    """Results must name the variant that they were measured with."""
    load = workload([0.0, 1.0]).scaled(rate=0.5, time=2, rng=np.random.default_rng(0)).clipped().repeated(3)
    assert load.label == "real, rate × 0.5, time × 2, images clipped to 16, repeated 3 times"


def test_prefixes_and_contents_go_along_with_their_requests() -> None:
    load = dataclasses.replace(
        workload([0.0, 1.0, 2.0]), prefix_blocks=blocks([[7], [], [8, 9]]), content_ids=np.array([5, 6, 5])
    )
    again = load.slice(1.0, 3.0).repeated(2)
    assert again.prefix_blocks is not None and again.content_ids is not None
    assert [again.prefix_blocks.of(i).tolist() for i in range(4)] == [[], [8, 9], [], [8, 9]]
    assert again.content_ids.tolist() == [6, 5, 6, 5]


def test_a_window_replaces_what_was_there() -> None:
    base, window = workload([0.0, 10.0, 15.0, 20.0, 30.0]), workload([0.0, 4.0], span_s=10.0)
    both = spliced(base, window, 10.0)
    assert both.arrival_s.tolist() == [0.0, 10.0, 14.0, 20.0, 30.0]
    assert _identities(both) == [1, 1, 2, 4, 5]
    with pytest.raises(ValueError, match="does not fit"):
        spliced(base, window, 25.0)


@pytest.mark.parametrize(
    "arrival_s",
    [
        pytest.param([1.0, 0.0], id="unsorted"),
        pytest.param([-1.0, 0.0], id="before-0"),
        pytest.param([0.0, float("nan"), 1.0, 0.5], id="not-a-number"),
    ],
)
def test_arrivals_out_of_order_are_refused(arrival_s: list[float]) -> None:
    with pytest.raises(ValueError, match="small"):
        workload(arrival_s, span_s=9.0)


def test_arrays_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry per request"):
        workload([0.0, 1.0], images=[1])


@pytest.mark.parametrize(
    "factors", [{"rate": -1.0}, {"time": 0.0}, {"rate": float("nan")}, {"time": float("inf")}, {"rate": 2.0}]
)
def test_factors_out_of_range_or_without_generator_are_refused(factors: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"scal"):
        workload([0.0, 1.0]).scaled(**factors)


def test_a_million_requests_take_tens_of_megabytes() -> None:
    load = workload(np.arange(1_000_000.0))
    arrays = (load.arrival_s, load.images, load.context_tokens, load.output_tokens)
    assert sum(array.nbytes for array in arrays) == 20_000_000
