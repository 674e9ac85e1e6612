"""Pictures that EfficientNet-Lite0 knows, drawn here: a photograph would bring a licence with it."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]

_SIDE_PX = 240
_CENTRE = _SIDE_PX / 2


def crossword() -> Pixels:
    """Return a grid of 12×12 cells of which a quarter is black, uint8 [240, 240, 3]."""
    image, draw = _canvas("white")
    for index, black in enumerate(np.random.default_rng(1).random(144) < 0.25):
        x, y = 20 * (index // 12), 20 * (index % 12)
        draw.rectangle([x, y, x + 20, y + 20], outline="black", fill="black" if black else "white")
    return np.asarray(image)


def spider_web() -> Pixels:
    """Return 16 spokes and 16 rings, light on dark green, uint8 [240, 240, 3]."""
    image, draw = _canvas((20, 40, 20))
    thread = (220, 220, 220)
    for spoke in range(16):
        angle = spoke * math.pi / 8
        draw.line([_polar(0, angle), _polar(170, angle)], fill=thread)
        for radius in range(10, 170, 10):
            draw.line([_polar(radius, angle), _polar(radius, angle + math.pi / 8)], fill=thread)
    return np.asarray(image)


def clock() -> Pixels:
    """Return a white dial with twelve marks and two hands, uint8 [240, 240, 3]."""
    image, draw = _canvas((200, 190, 170))
    draw.ellipse([20, 20, 220, 220], fill="white", outline="black", width=8)
    for hour in range(12):
        angle = (hour - 3) * math.pi / 6
        draw.line([_polar(80, angle), _polar(92, angle)], fill="black", width=4)
        x, y = _polar(70, angle)
        draw.text((x - 5, y - 6), str(hour or 12), fill="black")
    draw.line([_polar(0, 0), _polar(50, -0.6)], fill="black", width=6)
    draw.line([_polar(0, 0), _polar(71, -1.7)], fill="black", width=4)
    return np.asarray(image)


def _canvas(colour: str | tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (_SIDE_PX, _SIDE_PX), colour)
    return image, ImageDraw.Draw(image)


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return _CENTRE + radius * math.cos(angle), _CENTRE + radius * math.sin(angle)
