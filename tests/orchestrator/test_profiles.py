"""What profile and hardware files are accepted, and what comes of their figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.capacity import kv_capacity_tokens
from orchestrator.core.image_size import for_images
from orchestrator.core.profile import HardwareClass
from orchestrator.profiles import (
    DATA,
    NoProfileError,
    find_profile,
    load_accelerators,
    load_links,
    load_profile,
    read_profile,
)
from orchestrator.profiles.convert import context_token_s, itl_points
from orchestrator.profiles.fit import ItlPoint, decode_timing, fit_error, least_squares
from orchestrator.yaml_file import FileError
from stages.limits import EngineLimits
from stages.types import Stage

FILES = sorted((DATA / "profiles").glob("*.yaml"))
ACCELERATORS = load_accelerators()
MEASURED = {
    "internvl-2.5-26b": {("a100", 1), ("a100", 4), ("a100", 8), ("h100", 4), ("a40", 4)},
    "llama-3.2-11b-vision": {("a100", 1), ("a100", 4)},
    "llama-3.2-90b-vision": {("a100", 8)},
    "llava-onevision-7b": {("a100", 1), ("a100", 4)},
    "llava-onevision-72b": {("a100", 8), ("h100", 8)},
    "nvlm-d-72b": {("a100", 8), ("h100", 8)},
    "tiny": {("cpu", 1)},
}
WORST_FIT = 0.18
"""Largest relative error of a fitted decode time over the points it was fitted to; SOURCES.md lists them."""


@pytest.fixture
def edited(tmp_path):
    """Return a function that loads InternVL's profile with some text replaced."""

    def load(*edits):
        text = (DATA / "profiles" / "internvl-2.5-26b.yaml").read_text()
        for old, new in edits:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / "p.yaml").write_text(text)
        return load_profile(tmp_path / "p.yaml")

    return load


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_profile_in_the_repository_is_whole(file):
    profile = load_profile(file)
    assert profile.prefill.keys() == profile.decode.keys()
    assert all(timing.image_s > 0.0 for timing in profile.encode.values())
    assert 0.0 < profile.error[0] <= 1.0 <= profile.error[1]
    for where in profile.decode:
        assert kv_capacity_tokens(profile, Stage.DECODE, where, ACCELERATORS) > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_was_measured_is_what_was_published(file):
    assert set(itl_points(read_profile(file).decode.rows)) == MEASURED[file.stem]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_decode_times_are_near_the_points_that_they_are_fitted_to(file):
    """Before the KV cache of the model that was measured is replaced by that of the profile's own."""
    facts = read_profile(file)
    measured_kv = facts.decode.measured_kv_bytes_per_token or facts.language_model.kv_bytes_per_token
    for where, points in itl_points(facts.decode.rows).items():
        reading_s = context_token_s(measured_kv, where, facts.decode.kv_efficiency, ACCELERATORS)
        timing = decode_timing(points, context_token_s=reading_s, measured_context_token_s=reading_s)
        assert fit_error(timing, points) <= WORST_FIT


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_embeddings_are_whole_rows(file):
    """Two bytes a number, hidden sizes from 3,584 to 8,192; four bytes and 128 for the built-in model."""
    image = read_profile(file).image
    row = image.embedding_bytes / image.tokens
    assert row in ({512} if file.stem == "tiny" else {2 * 3584, 2 * 4096, 2 * 6144, 2 * 8192})


def test_reading_kv_caches_reaches_the_bandwidth_that_profiles_say():
    """0.78: what one A100 leaves of an ITL once operator times of the same source are taken off.

    Llama-3-8B: 10 → 29 ms from 1 to 128 sequences, of which projections 3.5 ms; InternLM-20B: 27 → 185, 11.3.
    """
    a100 = ACCELERATORS["a100"].memory_bytes_per_s
    for kv_bytes, rise_s, operators_s in ((131_072, 0.019, 0.00348), (1_228_800, 0.158, 0.01131)):
        reading_s = (rise_s - operators_s) / (127 * 1500)
        assert kv_bytes / a100 / reading_s == pytest.approx(0.78, abs=0.02)


def test_published_figures_come_back():
    profile = find_profile("internvl-2.5-26b")
    a100 = HardwareClass("a100", 4)
    assert profile.prefill[a100].step_s(2048) == pytest.approx(2048 / 15_900)
    assert profile.encode[HardwareClass("a100", 1)].image_s == pytest.approx(5 * 0.0669)
    llama = find_profile("meta-llama/Llama-3.2-11B-Vision-Instruct")
    assert llama.decode[HardwareClass("a100", 1)].itl_s(32, 32 * 1500) == pytest.approx(0.015, rel=0.05)


def test_a_smaller_kv_cache_than_the_measured_one_is_read_faster():
    """InternLM2-20B has grouped queries, InternLM-20B has not: 185 ms become 58 at a batch of 128."""
    timing = find_profile("internvl-26b").decode[HardwareClass("a100", 1)]
    assert timing.itl_s(1, 1500) == pytest.approx(0.026, abs=0.001)
    assert timing.itl_s(128, 128 * 1500) == pytest.approx(0.058, abs=0.002)


def test_a_derived_class_is_another_one_at_a_speed():
    profile = find_profile("llama-3.2-11b")
    a100, h100 = HardwareClass("a100", 1), HardwareClass("h100", 1)
    assert profile.prefill[h100].step_s(1000) == pytest.approx(profile.prefill[a100].step_s(1000) / 3.0)
    assert profile.decode[h100].context_token_s == pytest.approx(
        profile.decode[a100].context_token_s * 2.039 / 3.35
    )


def test_image_tokens_of_cross_attention_hold_kv_of_their_own():
    """6,404 rows in eight layers, against 32 layers of self-attention: the KV cache of 1,601 text tokens."""
    profile = find_profile("llama-3.2-11b")
    assert profile.kappa == 0
    assert profile.image_kv_bytes == 1601 * profile.kv_bytes_per_token
    assert find_profile("internvl-26b").image_kv_bytes == 0


@pytest.mark.parametrize(
    ("model", "px", "tiles", "tokens"),
    [
        pytest.param("internvl-26b", 448, 1, 256, id="one-tile-has-no-thumbnail"),
        pytest.param("internvl-26b", 449, 5, 1280, id="a-pixel-more"),
        pytest.param("internvl-26b", 1344, 10, 2560, id="nine-and-a-thumbnail"),
        pytest.param("llava-ov-7b", 384, 1, 729, id="llava"),
        pytest.param("llama-3.2-11b", 560, 1, 1601, id="llama"),
    ],
)
def test_images_of_another_size_take_what_their_tiles_take(model, px, tiles, tokens):
    """Embeddings, cross-attention KV and encoding go with the tiles, preparing with the pixels."""
    own = find_profile(model)
    other = for_images(own, px)
    assert (other.image_px, other.image_tiles, other.image_tokens) == (px, tiles, tokens)
    assert other.embedding_bytes * own.image_tiles == own.embedding_bytes * tiles
    assert other.image_kv_bytes * own.image_tiles == own.image_kv_bytes * tiles
    assert other.preprocess_s == pytest.approx(own.preprocess_s * (px / 896) ** 2)
    for where, timing in own.encode.items():
        assert other.encode[where].image_s == pytest.approx(timing.image_s * tiles / own.image_tiles)


def test_a_profile_is_found_by_model_alias_or_file_in_any_case():
    names = ("OpenGVLab/InternVL2_5-26B", "opengvlab/internvl2_5-26b", "internvl-26b", "internvl-2.5-26b")
    assert len({find_profile(name).model for name in names}) == 1


def test_no_name_stands_for_two_profiles():
    names = [
        name.lower()
        for file in FILES
        for name in {file.stem, *(alias for alias in read_profile(file).aliases), read_profile(file).model}
    ]
    assert len(names) == len(set(names))


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(NoProfileError, match=r"no profile of gpt; known: .*internvl-2\.5-26b, .*tiny"):
        find_profile("gpt")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("kappa: 1", "kapa: 1", "`kapa`: unknown key; did you mean `kappa`?", id="unknown-key"),
        pytest.param(
            "tile_s: 0.0669",
            "tile_ms: 66.9",
            "`encode.rows.0.tile_ms`: unknown key; did you mean `tile_s`?",
            id="unknown-key-of-a-row",
        ),
        pytest.param(
            "5000, 2048", "0, 2048", "`prefill.rows.0.tokens_per_s.512`: must be greater", id="rate"
        ),
        pytest.param(
            "2048: 5400", "2048: 54000", "a step with more tokens takes less time", id="not-monotone"
        ),
        pytest.param(
            "{hardware: a40, tp: 4, tokens",
            "{hardware: a41, tp: 4, tokens",
            "`prefill.rows.4.hardware`: a41 is not among the accelerators: a100, a40,",
            id="hardware",
        ),
        pytest.param(
            "{hardware: a40, tp: 4, tokens",
            "{hardware: a40, tp: 0, tokens",
            "`prefill.rows.4.tp`: must be",
            id="tp",
        ),
        pytest.param(
            "{hardware: a40, tp: 4, tokens",
            "{hardware: l4, tp: 1, tokens",
            "`prefill.rows.4.tp`: weights of 39.7 GB do not fit the 21.6 GB usable of 1 × l4",
            id="memory",
        ),
        pytest.param(
            "like: {hardware: a100, tp: 1}",
            "like: {hardware: a100, tp: 2}",
            "`encode.rows.1.like`: no row above is of a100 with tp 2",
            id="like-nothing",
        ),
        pytest.param(
            "speed: 2.24", "tile_s: 0.03", "`like` and `speed` go together", id="like-without-speed"
        ),
        pytest.param(
            "tile_s: 0.0669", "error: [0.7, 1.3]", "`encode.rows.0.error`: given twice", id="given-twice"
        ),
        pytest.param(
            "tile_s: 0.0669, ", "", "either figures of its own, or `like` and `speed`", id="empty-row"
        ),
        pytest.param(
            "{hardware: h100, tp: 1, like",
            "{hardware: a100, tp: 1, like",
            "a100 with tp 1 comes twice",
            id="twice",
        ),
        pytest.param("source: modserve", "source: moserve", "moserve is not a key of sources", id="source"),
        pytest.param("error: [0.7, 1.3]", "error: [1.3, 0.7]", "1.3 is above 0.7", id="error-order"),
        pytest.param("pull_s: [10, 20]", "pull_s: [20, 10]", "`cold_start.encode.pull_s`: 20 is", id="start"),
        pytest.param("context_tokens: 1500, ", "", "`itl_s` and `context_tokens` go together", id="context"),
        pytest.param("tile_px: 448", "tile_px: 384", "`image.tiles`: 896 px make 10 of 384 px", id="tiles"),
        pytest.param('date: "2026-11-25"', "date: today", "`date`: must match pattern", id="date"),
    ],
)
def test_a_mistake_is_named_with_its_place(edited, old, new, expected):
    with pytest.raises(FileError) as caught:
        edited((old, new))
    assert any(expected in str(problem) for problem in caught.value.problems), caught.value
    assert all(problem.line > 1 for problem in caught.value.problems)


def test_accelerators_have_the_names_that_policies_use():
    assert {"a100", "h100", "h20", "a40", "l40s", "l4", "cpu"} <= ACCELERATORS.keys()
    assert all(name == accelerator.name for name, accelerator in ACCELERATORS.items())


def test_a_wrong_accelerator_file_is_named_with_its_place(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        (DATA / "accelerators.yaml").read_text().replace("cost_per_h: 2.45", "cost_per_hour: 2.45")
    )
    with pytest.raises(FileError, match=r"`accelerators\.a100\.cost_per_hour`: unknown key; did you mean"):
        load_accelerators(file)


def test_links_follow_the_levels_of_a_policy():
    links = load_links()
    plain = links.of_levels(("zone", "block", "rack"))
    labelled = links.of_levels(("topology.kubernetes.io/zone", "example.com/block", "example.com/rack"))
    assert plain == labelled
    rates = [link.bytes_per_s for link in plain]
    assert rates == sorted(rates)
    assert len(set(rates)) == 4


def test_an_unknown_level_promises_no_more_than_the_next_wider_one():
    region, zone, hall = load_links().of_levels(("zone", "hall"))
    assert hall == zone != region


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("bytes_per_s: 25_000_000_000", "bytes_per_s: 1", "rack is slower than block, which is wider"),
        ("labels: [topology.kubernetes.io/zone]", "labels: [rack]", "rack stands for two levels"),
    ],
)
def test_links_that_contradict_each_other_are_refused(tmp_path, old, new, expected):
    text = (DATA / "links.yaml").read_text()
    assert old in text
    (tmp_path / "links.yaml").write_text(text.replace(old, new))
    with pytest.raises(FileError, match=expected):
        load_links(tmp_path / "links.yaml")


figures = st.floats(1e-4, 1e-1)


@given(figures, st.floats(1e-6, 1e-3), st.floats(1e-9, 1e-6))
def test_points_of_several_contexts_give_back_what_made_them(step_s, sequence_s, token_s):
    points = [
        ItlPoint(sequences=n, context_tokens=c, itl_s=step_s + n * sequence_s + n * c * token_s)
        for n in (1, 8, 64)
        for c in (128, 1024, 8192)
    ]
    timing = decode_timing(points, context_token_s=0.0, measured_context_token_s=0.0)
    assert fit_error(timing, points) < 1e-3


@given(st.lists(st.tuples(st.integers(1, 256), figures), min_size=1, max_size=6))
def test_no_fitted_time_is_negative(measured):
    points = [ItlPoint(sequences=n, context_tokens=1500, itl_s=itl_s) for n, itl_s in measured]
    timing = decode_timing(points, context_token_s=1e-8, measured_context_token_s=1e-7)
    assert timing.step_s >= 0.0
    assert timing.sequence_s >= 0.0


def test_least_squares_holds_what_would_be_negative_at_zero():
    assert least_squares([(1.0, 1.0), (1.0, 2.0)], [2.0, 1.0])[1] == 0.0


def test_the_built_in_models_profile_has_the_chunk_that_its_engine_was_measured_with():
    """`python -m bench engine` leaves the engine's own default in place."""
    profile = find_profile("tiny")
    assert profile.chunk_tokens == EngineLimits().chunk_tokens
    assert all(timing.points[-1][0] == profile.chunk_tokens for timing in profile.prefill.values())
