"""Seeded pictures with questions and answers: scanned digits and drawn scenes.

Digits are real scans (SOURCES.md). 397 of them are held out: they are committed in `heldout.npz`, no
training sees them, and evaluation, tests and docs use only them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

HELDOUT_PATH = Path(__file__).with_name("heldout.npz")

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = ("square", "circle", "triangle")
# Lowest and highest red, green and blue of what counts as a colour's name.
COLOUR_RANGES: Mapping[str, tuple[Colour, Colour]] = {
    "red": ((195, 0, 0), (255, 65, 65)),
    "green": ((0, 120, 0), (75, 255, 85)),
    "blue": ((0, 0, 175), (80, 95, 255)),
    "yellow": ((205, 185, 0), (255, 255, 75)),
}
COLOURS = tuple(COLOUR_RANGES)

MAX_OBJECTS = 5
NATIVE_PX = 48
INK_LEVELS = 16


class Kind(StrEnum):
    """What a question asks for."""

    DIGIT = "digit"
    COUNT = "count"
    COLOUR = "colour"
    DESCRIBE = "describe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Scanned digits.

    Attributes:
        ink: uint8 [n, 8, 8], 0 is paper and 16 is full ink.
        labels: uint8 [n], 0 to 9.
    """

    ink: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A picture, uint8 [height, width, 3] of any size, with a question and its only right answer."""

    kind: Kind
    rgb: Pixels
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Thing:
    """A kind of object in a scene."""

    colour: str
    shape: str


@cache
def heldout_digits() -> Digits:
    """Return the 397 digits that no training sees."""
    with np.load(HELDOUT_PATH, allow_pickle=False) as archive:
        return Digits(ink=archive["ink"], labels=archive["labels"])


def training_digits() -> Digits:
    """Return the other 1,400 digits of scikit-learn's set, which is in the extra `train`."""
    from sklearn.datasets import load_digits

    everything = load_digits()
    with np.load(HELDOUT_PATH, allow_pickle=False) as archive:
        kept = np.setdiff1d(np.arange(len(everything.target)), archive["source_index"])
    return Digits(
        ink=everything.images[kept].astype(np.uint8), labels=everything.target[kept].astype(np.uint8)
    )


def heldout_digit(index: int, size_px: int = 96) -> tuple[Pixels, int]:
    """Return held-out digit `index` mod 397 in black on white, and which digit it is.

    The scan fills the picture: uint8 [size_px, size_px, 3].
    """
    digits = heldout_digits()
    index %= len(digits.labels)
    ink = _enlarge(digits.ink[index], (size_px, size_px), Image.Resampling.BILINEAR)
    return np.repeat((255 - ink)[..., None], 3, axis=2).astype(np.uint8), int(digits.labels[index])


def draw_samples(
    count: int,
    seed: int,
    digits: Digits,
    kinds: Sequence[Kind] = tuple(Kind),
    shares: Sequence[float] | None = None,
    max_turn_deg: float = 0.0,
) -> Iterator[Sample]:
    """Yield `count` samples, the same for the same arguments.

    `kinds` take turns unless `shares` gives the probability of each. Digits are turned by up to
    `max_turn_deg` and, if that is not 0, stretched a little: for training.
    """
    rng = np.random.default_rng(seed)
    turns = range(count) if shares is None else rng.choice(len(kinds), size=count, p=shares)
    for turn in turns:
        kind = kinds[turn % len(kinds)]
        yield digit_sample(rng, digits, max_turn_deg) if kind is Kind.DIGIT else SCENE_SAMPLES[kind](rng)


def digit_sample(rng: Rng, digits: Digits, max_turn_deg: float = 0.0) -> Sample:
    """Draw a random one of `digits` somewhere on paper and ask for it."""
    index = int(rng.integers(len(digits.labels)))
    rgb = _draw_digit(rng, digits.ink[index], max_turn_deg)
    answer = f"the digit is {NUMBERS[digits.labels[index]]} ."
    return Sample(kind=Kind.DIGIT, rgb=rgb, question="what digit is shown ?", answer=answer)


def count_sample(rng: Rng) -> Sample:
    """Ask for the number of a thing that is in the scene, or in a quarter of cases of any thing."""
    things = _random_things(rng)
    asked = _any_thing(rng) if rng.random() < 0.25 else _pick(rng, things)
    question = f"how many {asked.colour} {asked.shape}s ?"
    answer = f"{NUMBERS[things.count(asked)]} ."
    return Sample(kind=Kind.COUNT, rgb=draw_scene(rng, things), question=question, answer=answer)


def colour_sample(rng: Rng) -> Sample:
    """Ask for the colour of the only object of its shape."""
    single: list[Thing] = []
    while not single:
        things = _random_things(rng)
        shapes = Counter(thing.shape for thing in things)
        single = [thing for thing in things if shapes[thing.shape] == 1]
    asked = _pick(rng, single)
    question = f"what color is the {asked.shape} ?"
    rgb = draw_scene(rng, things)
    return Sample(kind=Kind.COLOUR, rgb=rgb, question=question, answer=f"{asked.colour} .")


def describe_sample(rng: Rng) -> Sample:
    """Ask for a list of everything in the scene."""
    things = _random_things(rng)
    rgb = draw_scene(rng, things)
    return Sample(kind=Kind.DESCRIBE, rgb=rgb, question="describe the image .", answer=f"{caption(things)} .")


SCENE_SAMPLES: Mapping[Kind, Callable[[Rng], Sample]] = {
    Kind.COUNT: count_sample,
    Kind.COLOUR: colour_sample,
    Kind.DESCRIBE: describe_sample,
}


def caption(things: Sequence[Thing]) -> str:
    """Return e.g. `two red squares , one blue circle`, ordered by colour, then by shape."""
    counts = Counter(things)
    order = sorted(counts, key=lambda thing: (COLOURS.index(thing.colour), SHAPES.index(thing.shape)))
    plural = {thing: "s" if counts[thing] > 1 else "" for thing in order}
    return " , ".join(f"{NUMBERS[counts[t]]} {t.colour} {t.shape}{plural[t]}" for t in order)


def draw_scene(rng: Rng, things: Sequence[Thing]) -> Pixels:
    """Draw 1 to 5 things in random cells of a grid on a dark or light grey ground."""
    size_px = _picture_px(rng)
    ground = int(rng.integers(0, 50) if rng.random() < 0.5 else rng.integers(215, 256))
    image = Image.new("RGB", (size_px, size_px), (ground, ground, ground))
    canvas = ImageDraw.Draw(image)
    side = _grid_side(rng, len(things))
    for thing, cell in zip(things, rng.permutation(side * side), strict=False):
        box = _box_in_cell(rng, int(cell) % side, int(cell) // side, size_px / side)
        _OUTLINES[thing.shape](canvas, box, _shade(rng, thing.colour))
    return _with_noise(rng, np.asarray(image, dtype=np.float32))


def _draw_square(canvas: ImageDraw.ImageDraw, box: Box, fill: Colour) -> None:
    canvas.rectangle(box, fill=fill)


def _draw_circle(canvas: ImageDraw.ImageDraw, box: Box, fill: Colour) -> None:
    canvas.ellipse(box, fill=fill)


def _draw_triangle(canvas: ImageDraw.ImageDraw, box: Box, fill: Colour) -> None:
    left, top, right, bottom = box
    canvas.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=fill)


_OUTLINES: Mapping[str, Callable[[ImageDraw.ImageDraw, Box, Colour], None]] = {
    "square": _draw_square,
    "circle": _draw_circle,
    "triangle": _draw_triangle,
}


def _grid_side(rng: Rng, things: int) -> int:
    """Mostly 3 × 3 small cells; now and then fewer and larger ones, if the things fit in."""
    side = int(rng.choice([3, 2, 1], p=[0.8, 0.12, 0.08]))
    return side if things <= side * side else 3


def _box_in_cell(rng: Rng, column: int, row: int, cell_px: float) -> Box:
    radius = rng.uniform(0.27, 0.42) * cell_px
    x = (column + rng.uniform(0.44, 0.56)) * cell_px
    y = (row + rng.uniform(0.44, 0.56)) * cell_px
    return (x - radius, y - radius, x + radius, y + radius)


def _shade(rng: Rng, colour: str) -> Colour:
    low, high = COLOUR_RANGES[colour]
    red, green, blue = rng.integers(low, high, endpoint=True)
    return (int(red), int(green), int(blue))


def _random_things(rng: Rng) -> list[Thing]:
    palette = [_any_thing(rng) for _ in range(rng.integers(1, 4))]
    return [_pick(rng, palette) for _ in range(rng.integers(1, MAX_OBJECTS + 1))]


def _any_thing(rng: Rng) -> Thing:
    return Thing(COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))])


def _pick(rng: Rng, things: Sequence[Thing]) -> Thing:
    return things[int(rng.integers(len(things)))]


def _picture_px(rng: Rng) -> int:
    """Half the pictures have the encoder's own size, the others are resized like a client's."""
    return NATIVE_PX if rng.random() < 0.5 else int(rng.integers(28, 201))


def _draw_digit(rng: Rng, ink: NDArray[np.uint8], max_turn_deg: float) -> Pixels:
    size_px = _picture_px(rng)
    share = 1.0 if rng.random() < 0.35 else rng.uniform(0.46, 1.0)
    stretch = rng.uniform(0.85, 1.0, size=2) if max_turn_deg else np.ones(2)
    width, height = (max(8, round(side)) for side in size_px * share * stretch)
    resampling = _RESAMPLINGS[rng.integers(len(_RESAMPLINGS))]
    turn_deg = rng.uniform(-max_turn_deg, max_turn_deg)
    cover = _enlarge(ink, (width, height), resampling, turn_deg)[..., None] / np.float32(255)
    ink_colour, paper_colour = _ink_and_paper(rng)
    rgb = np.broadcast_to(paper_colour, (size_px, size_px, 3)).astype(np.float32)
    x, y = rng.integers(0, size_px - width, endpoint=True), rng.integers(0, size_px - height, endpoint=True)
    rgb[y : y + height, x : x + width] += cover * (ink_colour - paper_colour)
    return _with_noise(rng, rgb)


_RESAMPLINGS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def _enlarge(
    ink: NDArray[np.uint8], size: tuple[int, int], resampling: Image.Resampling, turn_deg: float = 0.0
) -> NDArray[np.uint8]:
    """Return the scan as uint8 [height, width], 255 is full ink, turned within its frame."""
    levels = (ink.astype(np.uint16) * 255 // INK_LEVELS).astype(np.uint8)
    image = Image.fromarray(levels).resize(size, resampling)
    return np.asarray(image.rotate(turn_deg, Image.Resampling.BILINEAR) if turn_deg else image)


def _ink_and_paper(rng: Rng) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two RGB colours: black and white in two of five cases, else any dark and light pair."""
    dark, light = (rng.integers(*span, size=3).astype(np.float32) for span in ((0, 70), (170, 256)))
    if rng.random() < 0.4:
        dark, light = np.zeros(3, np.float32), np.full(3, 255, np.float32)
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def _with_noise(rng: Rng, rgb: NDArray[np.float32]) -> Pixels:
    noise = rng.standard_normal(rgb.shape, dtype=np.float32) * np.float32(rng.uniform(0, 8))
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)
