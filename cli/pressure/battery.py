"""The battery of pressure tests that a profile is fitted to."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from cli.pressure.press import press
from cli.pressure.requests import Mix, Shape, bodies
from cli.pressure.system import System
from orchestrator.profiles.pressure import Pressure, Round

SATURATING = 16
"""Requests in progress that saturate a small machine, and do not fill its queues with more."""

_WARM_UP_S = 2.0
_IN_STOCK = 400
"""Requests of one shape that are drawn beforehand, so that the client computes little meanwhile."""

_SHAPES = (
    *(Shape(images=images, words=8, output_tokens=1) for images in (0, 1, 4)),
    *(Shape(images=0, words=words, output_tokens=1) for words in (60, 120, 240)),
)
_BATCHES = (1, 2, 4, 8, 16, 32)
_MIXED = (2, 4, 8, SATURATING)
# So long that prompts are a small part of the work, and nearly all requests in progress decode.
_COMPLETION = Shape(images=0, words=8, output_tokens=200)
_LONG = Shape(images=0, words=8, output_tokens=200, endless=300)


@dataclass(slots=True, kw_only=True)
class Loads:
    """Runs tests on a system.

    Attributes:
        image_px: Width and height of each image.
        seed: Grows, so that no request comes twice.
    """

    system: System
    model: str
    image_px: int
    duration_s: float
    say: Callable[[str], None]
    seed: int = 0

    def round(self, mix: Mix) -> Round:
        """Run every test once."""
        one = [self.alike(shape, at) for shape in _SHAPES for at in (1, SATURATING)]
        one += [self.alike(_COMPLETION, at) for at in _BATCHES]
        one += [self.alike(_LONG, at) for at in (1, SATURATING)]
        return Round(tests=one, mixed=[self.mixed(mix, at) for at in _MIXED])

    def warm_up(self, mix: Mix) -> None:
        """Have everything loaded and compiled that is on first use."""
        self._run(mix, 4, _WARM_UP_S)

    def alike(self, shape: Shape, concurrency: int) -> Pressure:
        """Test requests of one shape."""
        sizes = f"{shape.images} images, {shape.words} words, {shape.output_tokens} tokens out"
        self.say(f"{sizes}: {concurrency} at once")
        return self._run(shape, concurrency, self.duration_s)

    def mixed(self, mix: Mix, concurrency: int) -> Pressure:
        """Test requests of a mix."""
        self.say(f"the mix: {concurrency} at once")
        return self._run(mix, concurrency, 2.0 * self.duration_s)

    def _run(self, of: Shape | Mix, concurrency: int, duration_s: float) -> Pressure:
        drawn = itertools.cycle(self._drawn(of))
        return asyncio.run(press(self.system, drawn, concurrency=concurrency, duration_s=duration_s))

    def _drawn(self, of: Shape | Mix) -> list[tuple[Shape, bytes]]:
        self.seed += 1
        rng = random.Random(self.seed)
        shapes = [of.draw(rng) if isinstance(of, Mix) else of for _ in range(_IN_STOCK)]
        return list(zip(shapes, bodies(self.model, shapes, self.seed, self.image_px), strict=True))
