"""The pictures that tiny is trained and measured on."""

import numpy as np
import pytest

from stages.tiny.data import (
    COLOUR_RANGES,
    COLOURS,
    HELDOUT_PATH,
    NUMBERS,
    SHAPES,
    Kind,
    Thing,
    caption,
    draw_samples,
    draw_scene,
    heldout_digit,
    heldout_digits,
)
from stages.tiny.vocab import split_words, word_ids


def samples(seed, count=24):
    return list(draw_samples(count, seed, heldout_digits()))


def test_the_same_seed_gives_the_same_pictures_and_questions():
    first, second = samples(7), samples(7)
    for a, b in zip(first, second, strict=True):
        assert (a.kind, a.question, a.answer) == (b.kind, b.question, b.answer)
        np.testing.assert_array_equal(a.rgb, b.rgb)


def test_another_seed_gives_others():
    assert [s.answer for s in samples(7)] != [s.answer for s in samples(8)]


def test_kinds_take_turns_and_every_word_is_in_the_vocabulary():
    drawn = samples(3, 40)
    assert [s.kind for s in drawn[:5]] == [*Kind, Kind.DIGIT]
    for sample in drawn:
        assert word_ids(split_words(f"{sample.question} {sample.answer}"))
        assert sample.rgb.dtype == np.uint8
        assert sample.rgb.shape == (len(sample.rgb), len(sample.rgb), 3)


def test_shares_choose_the_kinds():
    drawn = draw_samples(20, 3, heldout_digits(), shares=(0, 1, 0, 0))
    assert {s.kind for s in drawn} == {Kind.COUNT}


def test_397_digits_are_held_out_and_each_of_the_ten_is_among_them():
    digits = heldout_digits()
    assert digits.ink.shape == (397, 8, 8)
    assert digits.ink.max() == 16
    assert set(digits.labels) == set(range(10))


def test_held_out_digits_are_named_by_their_place_in_the_full_set():
    """So that training can leave them out."""
    with np.load(HELDOUT_PATH, allow_pickle=False) as archive:
        places = archive["source_index"]
    assert len(np.unique(places)) == 397
    assert places.max() < 1797


@pytest.mark.parametrize("size_px", [8, 28, 96, 200])
def test_a_held_out_digit_is_black_on_white_at_any_size(size_px):
    rgb, label = heldout_digit(5, size_px)
    assert rgb.shape == (size_px, size_px, 3)
    assert label == heldout_digits().labels[5]
    assert rgb.min() < 60
    assert rgb.max() == 255
    assert rgb.mean() > 120


def test_indices_of_held_out_digits_wrap():
    assert heldout_digit(5)[1] == heldout_digit(5 + 397)[1]


@pytest.mark.parametrize(
    ("things", "text"),
    [
        ([Thing("blue", "circle")], "one blue circle"),
        ([Thing("red", "square")] * 2, "two red squares"),
        (
            [Thing("yellow", "square"), Thing("red", "triangle"), Thing("red", "square")],
            "one red square , one red triangle , one yellow square",
        ),
    ],
)
def test_a_caption_counts_by_colour_then_shape(things, text):
    assert caption(things) == text


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_scene_shows_its_things_in_their_colours(colour, shape):
    """Up to noise of a few levels, as many pixels as the outline has, and none of other colours."""
    rgb = draw_scene(np.random.default_rng(1), [Thing(colour, shape)]).astype(int)

    def painted(name):
        low, high = (np.array(bound) for bound in COLOUR_RANGES[name])
        return ((rgb > low - 32) & (rgb < high + 32)).all(axis=2).mean()

    assert painted(colour) > 0.01
    assert all(painted(other) < 0.002 for other in COLOURS if other != colour)


def test_counts_ask_for_things_that_are_and_are_not_there():
    answers = [s.answer for s in draw_samples(200, 1, heldout_digits(), [Kind.COUNT])]
    assert {f"{NUMBERS[n]} ." for n in range(6)} >= set(answers) > {"zero .", "one .", "two ."}
