"""The nouns of experiments: what is measured, how much of it, and what came out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Value = str | float | None
Row = Mapping[str, Value]
"""What one measurement found, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is spent on answers.

    Attributes:
        name: `QUICK` or `full`, as every result says.
        seeds: The fewest and the most repetitions of a point.
        tolerance: Enough repetitions if the 95 % interval of a point's figure is within this fraction.
    """

    name: str
    seeds: tuple[int, int]
    tolerance: float

    @property
    def quick(self) -> bool:
        """Whether a first impression is enough."""
        return self.name == "QUICK"


QUICK = Scale(name="QUICK", seeds=(1, 1), tolerance=0.10)
FULL = Scale(name="full", seeds=(5, 6), tolerance=0.03)


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of an experiment's factors; each seed measures it once.

    Attributes:
        factors: Names and values, in the order of the experiment.
    """

    factors: tuple[tuple[str, Value], ...]

    def __getitem__(self, name: str) -> Value:
        return dict(self.factors)[name]

    def text(self, name: str) -> str:
        """Return a factor that is a word."""
        return str(self[name])

    def number(self, name: str) -> float:
        """Return a factor that is a number."""
        value = self[name]
        if not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}, no number")
        return float(value)


def point(**factors: Value) -> Point:
    """Return the point of these factors."""
    return Point(tuple(factors.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came out at a point with one seed.

    Attributes:
        wall_s: Seconds that it took.
        code: Fingerprint of the code that measured.
    """

    point: Point
    seed: int
    row: Row
    wall_s: float
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A question and how it is answered; `texts/NAME.md` says how to read the answer.

    Attributes:
        title: What it is about, in a few words.
        figure: The column whose interval tells when there are enough seeds; None: the fewest are enough.
        points: What to measure at a scale.
        measure: Measures a point with a seed; called in a process of its own, so a function of a module.
        expected_s: Seconds that a point with one seed is expected to take.
        written: The section of the results, in Markdown, from all that was measured.
    """

    name: str
    title: str
    figure: str | None
    points: Callable[[Scale], Sequence[Point]]
    measure: Callable[[Point, int, Scale], Row]
    expected_s: Callable[[Point, Scale], float]
    written: Callable[["Findings"], "Section"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What the results say of an experiment.

    Attributes:
        text: Markdown; plots are named by their file.
        plots: SVG by file name.
    """

    text: str
    plots: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that was measured for one experiment at one scale."""

    scale: Scale
    measured: Sequence[Measured]

    def values(self, point: Point, name: str) -> list[float]:
        """Return a figure at a point, one value a seed, in their order; without those that are None."""
        return list(self._by_seed(point, name).values())

    def ratios(self, one: Point, other: Point, name: str) -> list[float]:
        """Return a figure at one point over that at another, for each seed that both have.

        Both saw the same random numbers, so that much cancels out. What is over 0 is left out.
        """
        ones, others = self._by_seed(one, name), self._by_seed(other, name)
        return [value / others[seed] for seed, value in ones.items() if others.get(seed)]

    def _by_seed(self, point: Point, name: str) -> dict[int, float]:
        rows = sorted((m for m in self.measured if m.point == point), key=lambda m: m.seed)
        found = {m.seed: m.row.get(name) for m in rows}
        return {seed: float(value) for seed, value in found.items() if isinstance(value, int | float)}

    def points(self) -> list[Point]:
        """Return the points that were measured, in the order of the experiment."""
        return list(dict.fromkeys(m.point for m in self.measured))
