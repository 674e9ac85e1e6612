"""Measure the committed weights: `python -m stages.tiny.evaluate [--n 1500] [--json]`.

Every answer comes from the three engines that serve requests, in one process: a PNG is encoded,
prefilled and decoded greedily. Digits are held-out scans, scenes are fresh.
"""

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from stages.front import Turn
from stages.generate import Generator
from stages.tiny.data import Kind, Pixels, Sample, draw_samples, heldout_digits

# Neither the seed of any training nor of its checks.
SEED = 4242
# Requests at once: the engines batch them.
THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Questions of one kind, and how many were answered word for word."""

    kind: Kind
    asked: int
    right: int

    @property
    def share(self) -> float:
        """Fraction answered right, 0.0 to 1.0."""
        return self.right / self.asked


def evaluate(generator: Generator, samples: Iterable[Sample]) -> list[Score]:
    """Return the score of each kind of question that is among the samples."""

    def is_right(sample: Sample) -> bool:
        return answer(generator, sample.rgb, sample.question) == sample.answer

    samples = list(samples)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(is_right, samples))
    asked = Counter(sample.kind for sample in samples)
    right = Counter(sample.kind for sample, result in zip(samples, results, strict=True) if result)
    return [Score(kind=kind, asked=asked[kind], right=right[kind]) for kind in Kind if kind in asked]


def answer(generator: Generator, rgb: Pixels, question: str) -> str:
    """Return the model's greedy answer to a question about a picture, uint8 [height, width, 3]."""
    turns = [Turn(role="user", text=question, media=(0,))]
    return generator.generate(turns, [png(rgb)]).text


def png(rgb: Pixels) -> bytes:
    """Return the picture, uint8 [height, width, 3], as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    return out.getvalue()


def table(scores: Iterable[Score]) -> str:
    """Return a table of kind, n and share of exact matches."""
    rows = [f"{score.kind:<10}{score.asked:>6}{score.share:>14.3f}" for score in scores]
    return "\n".join([f"{'kind':<10}{'n':>6}{'exact match':>14}", *rows])


def main() -> None:
    """Parse the command line, evaluate, print."""
    parser = argparse.ArgumentParser(prog="stages.tiny.evaluate", description="Measure the tiny model.")
    parser.add_argument("--n", type=int, default=1500, help="questions, a quarter of each kind")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    with Generator("tiny") as generator:
        scores = evaluate(generator, draw_samples(args.n, SEED, heldout_digits()))
    if args.json:
        text = json.dumps({s.kind: {"n": s.asked, "exact_match": round(s.share, 4)} for s in scores})
    else:
        text = table(scores)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
