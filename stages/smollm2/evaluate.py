"""`python -m stages.smollm2.evaluate [IMAGE…]`: what the model sees and says, and how fast it is."""

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from stages.front import Turn
from stages.generate import Generator
from stages.limits import EngineLimits
from stages.smollm2 import samples
from stages.smollm2.model import language_model
from stages.smollm2.prepare import prepare
from stages.smollm2.vision import SmolVision
from stages.transformer import Segment, Transformer
from stages.types import Sampling

_QUESTIONS = ("What is in this picture?", "Describe the image in one sentence.")
_LIMITS = EngineLimits(kv_budget_bytes=256 * 2**20)
_CHUNK_TOKENS = 64
_BATCHES = (1, 8, 16)
_STEPS = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Print labels and answers for each image, then tokens per second of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, help="files; else two sample images")
    chosen: list[Path] = parser.parse_args(arguments).images
    directory = prepare(_say)
    pictures = [(path.name, path.read_bytes()) for path in chosen] or list(_sample_images())
    _answer(pictures, SmolVision(directory))
    for line in measure(language_model(directory)):
        _say(line)


def measure(model: Transformer) -> Iterator[str]:
    """Yield lines with prefill and decode speed on one thread, in tokens per wall-clock second."""
    rows = model.embed([1000 + index for index in range(256)])
    slab = model.new_slab(len(rows))
    starts = range(0, len(rows), _CHUNK_TOKENS)
    chunks = [Segment(slab=slab, start=start, rows=rows[start : start + _CHUNK_TOKENS]) for start in starts]
    duration_s = _best_s([lambda: [model.forward([chunk]) for chunk in chunks]] * 3)
    yield f"prefill {len(rows)} tokens: {len(rows) / duration_s:.0f} tokens/s"
    for batch in _BATCHES:
        segments = [Segment(slab=model.new_slab(256), start=128, rows=rows[:1]) for _ in range(batch)]
        duration_s = _best_s([lambda: model.logits(model.forward(segments))] * _STEPS)  # noqa: B023
        yield f"decode batch {batch} at 128 tokens: {batch / duration_s:.0f} tokens/s"


def _answer(pictures: Sequence[tuple[str, bytes]], vision: SmolVision) -> None:
    with Generator("smollm2", _LIMITS) as generator:
        for name, data in pictures:
            rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            labels = ", ".join(f"{label} {share:.2f}" for label, share in vision.classify(rgb, 3))
            _say(f"{name}: {labels}")
            for question in _QUESTIONS:
                turns = [Turn(role="user", text=question, media=(0,))]
                answer = generator.generate(turns, [data], Sampling(max_tokens=40))
                _say(f"  {question}\n    {answer.text.strip()}")


def _sample_images() -> Iterator[tuple[str, bytes]]:
    """Yield scikit-learn's two photographs if it is installed, else two drawings."""
    spec = find_spec("sklearn")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0], "datasets", "images")
        yield from ((path.name, path.read_bytes()) for path in sorted(folder.glob("*.jpg")))
        return
    for draw in (samples.crossword, samples.spider_web):
        file = io.BytesIO()
        Image.fromarray(draw()).save(file, "PNG")
        yield draw.__name__, file.getvalue()


def _best_s(runs: Sequence[Callable[[], object]]) -> float:
    """Return the shortest of the runs: what else the machine does only ever adds."""
    durations = []
    for run in runs:
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return min(durations)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
