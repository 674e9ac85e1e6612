"""The committed weights answer pictures that no training saw, through the engines that serve."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.generate import Generator
from stages.tiny.data import NUMBERS, Kind, draw_samples, heldout_digit, heldout_digits
from stages.tiny.evaluate import Score, answer, evaluate, table

TARGETS = {Kind.DIGIT: 0.93, Kind.COUNT: 0.95, Kind.COLOUR: 0.93, Kind.DESCRIBE: 0.95}

DOC_IMAGES = Path(__file__).parents[3] / "docs" / "images"


@pytest.fixture(scope="module")
def generator():
    with Generator("tiny") as running:
        yield running


@pytest.mark.slow
def test_every_kind_of_question_is_answered(generator):
    """A short run of `python -m stages.tiny.evaluate`, which has the full figures."""
    scores = evaluate(generator, draw_samples(240, 99, heldout_digits()))
    assert {score.kind: score.asked for score in scores} == dict.fromkeys(Kind, 60)
    assert all(score.share >= TARGETS[score.kind] for score in scores), table(scores)


@pytest.mark.parametrize("size_px", [8, 28, 96, 200])
@pytest.mark.parametrize("inverted", [False, True], ids=["black-on-white", "white-on-black"])
def test_digits_of_any_size_are_read(generator, size_px, inverted):
    right = 0
    for index in range(0, 397, 13):
        rgb, label = heldout_digit(index, size_px)
        rgb = 255 - rgb if inverted else rgb
        right += answer(generator, rgb, "What digit is shown?") == f"the digit is {NUMBERS[label]} ."
    assert right >= 0.93 * len(range(0, 397, 13))


@pytest.mark.parametrize(
    ("file", "question", "expected"),
    [
        ("digit.png", "what digit is shown ?", "the digit is seven ."),
        ("scene.png", "describe the image .", "two red squares , one blue circle ."),
        ("scene.png", "how many red squares ?", "two ."),
        ("scene.png", "what color is the circle ?", "blue ."),
    ],
)
def test_the_pictures_of_the_docs_are_answered_as_the_docs_say(generator, file, question, expected):
    rgb = np.asarray(Image.open(DOC_IMAGES / file).convert("RGB"))
    assert answer(generator, rgb, question) == expected


def test_a_question_without_its_mark_is_answered_too(generator):
    rgb, label = heldout_digit(2)
    assert answer(generator, rgb, "what digit is shown") == f"the digit is {NUMBERS[label]} ."


def test_the_table_has_kind_n_and_exact_match():
    text = table([Score(kind=Kind.DIGIT, asked=200, right=187)])
    assert [line.split() for line in text.splitlines()] == [
        ["kind", "n", "exact", "match"],
        ["digit", "200", "0.935"],
    ]
