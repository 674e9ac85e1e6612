"""Train `tiny` from scratch: `python -m stages.tiny.train`, with the extra `train`.

Everything follows from the seed and the number of steps, never from wall time: the same machine and
the same library versions give the same file.
"""

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from stages.tiny.data import Kind, Sample, draw_samples, heldout_digits, training_digits
from stages.tiny.jax_model import Params, answer_loss, exact_matches, flatten, init_params
from stages.tiny.vision import resize
from stages.tiny.vocab import BOS, EOS, PAD, VOCABULARY, split_words, word_ids
from stages.tiny.weights import WEIGHTS_PATH

log = logging.getLogger(__name__)

KINDS = tuple(Kind)
KIND_SHARES = (0.32, 0.32, 0.12, 0.24)
MAX_TURN_DEG = 10.0
# Clients forget the question mark: this share of the training questions comes without it.
BARE_SHARE = 0.15
NOISE_LEVELS = 6.0

BATCH = 64
PEAK_LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 100
# Adam (Kingma and Ba, arXiv:1412.6980) with decoupled weight decay, gradients clipped to norm 1.
BETA_1, BETA_2, ADAM_EPS, WEIGHT_DECAY = 0.9, 0.98, 1e-8, 0.01


Batch = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Samples as arrays.

    Attributes:
        rgb: uint8 [n, 48, 48, 3].
        token_ids: int32 [n, length]: question, `<bos>`, answer, `<eos>`, padding.
        answer_mask: float32 [n, length], 1.0 on the answer and its `<eos>`.
        kinds: What each asks for, [n].
    """

    rgb: NDArray[np.uint8]
    token_ids: NDArray[np.int32]
    answer_mask: NDArray[np.float32]
    kinds: NDArray[np.str_]

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Return images as float32 0 to 255, token ids and mask of `rows`."""
        return self.rgb[rows].astype(np.float32), self.token_ids[rows], self.answer_mask[rows]


def to_examples(samples: Iterable[Sample], rng: np.random.Generator, bare_share: float = 0.0) -> Examples:
    """Return the samples as arrays; `bare_share` of the questions lose their final mark."""
    images, kinds = [], []
    texts: list[tuple[list[int], list[int]]] = []
    for sample in samples:
        images.append(resize(sample.rgb))
        kinds.append(str(sample.kind))
        question = split_words(sample.question)
        if rng.random() < bare_share:
            question = question[:-1]
        texts.append(([*word_ids(question), BOS], [*word_ids(split_words(sample.answer)), EOS]))
    length = max(len(question) + len(answer) for question, answer in texts)
    token_ids = np.full((len(texts), length), PAD, np.int32)
    answer_mask = np.zeros((len(texts), length), np.float32)
    for row, (asked, answered) in enumerate(texts):
        end = len(asked) + len(answered)
        token_ids[row, :end] = asked + answered
        answer_mask[row, len(asked) : end] = 1.0
    return Examples(rgb=np.stack(images), token_ids=token_ids, answer_mask=answer_mask, kinds=np.array(kinds))


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of `step` (from 1): linear warm-up, then a cosine down to 1 % of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return PEAK_LEARNING_RATE * min(1.0, step / WARMUP_STEPS) * (0.99 * cosine + 0.01)


def adam_step(
    params: Params, mean: Params, square: Params, step: float, rate: float, *batch: jax.Array
) -> tuple[Params, Params, Params, jax.Array]:
    """Return the next parameters and moments, and the loss before the step."""
    loss, grads = jax.value_and_grad(answer_loss)(params, *batch)
    norm = jnp.sqrt(sum((g * g).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / norm), grads)
    mean = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, mean, grads)
    square = jax.tree.map(lambda s, g: BETA_2 * s + (1 - BETA_2) * g * g, square, grads)

    def moved(weight: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
        direction = m / (1 - BETA_1**step) / (jnp.sqrt(s / (1 - BETA_2**step)) + ADAM_EPS)
        return weight - rate * (direction + WEIGHT_DECAY * weight)

    return jax.tree.map(moved, params, mean, square), mean, square, loss


def train(examples: Examples, check: Examples, steps: int, seed: int, report_every: int) -> Params:
    """Return the parameters after `steps` batches, reporting the loss and the matches on `check`."""
    params = init_params(seed)
    mean, square = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    rng = np.random.default_rng(seed)
    update, matches = jax.jit(adam_step), jax.jit(exact_matches)
    started_s = time.monotonic()
    for step in range(1, steps + 1):
        rgb, token_ids, mask = examples.batch(rng.integers(0, len(examples.rgb), BATCH))
        rgb += rng.standard_normal(rgb.shape, dtype=np.float32) * np.float32(rng.uniform(0, NOISE_LEVELS))
        rate = learning_rate(step, steps)
        params, mean, square, loss = update(params, mean, square, float(step), rate, rgb, token_ids, mask)
        if step % report_every == 0 or step == steps:
            shares = match_shares(matches, params, check)
            elapsed_s = time.monotonic() - started_s
            log.info("step %d/%d  %.0f s  loss %.4f  %s", step, steps, elapsed_s, float(loss), shares)
    return params


def match_shares(matches: Callable[..., jax.Array], params: Params, check: Examples) -> str:
    """Return the share of exact matches of each kind, as text."""
    chunks = np.array_split(np.arange(len(check.rgb)), max(1, len(check.rgb) // 200))
    right = np.concatenate([np.asarray(matches(params, *check.batch(rows))) for rows in chunks])
    return "  ".join(f"{kind} {right[check.kinds == kind].mean():.3f}" for kind in KINDS)


def save(params: Params, path: Path) -> None:
    """Write the parameters as float16 with the vocabulary; loads without pickle."""
    arrays = {name: np.asarray(value, np.float16) for name, value in flatten(params)}
    np.savez_compressed(path, allow_pickle=False, **arrays, vocab=np.array(VOCABULARY))


def main() -> None:
    """Parse the command line, train, write the file."""
    parser = argparse.ArgumentParser(
        prog="stages.tiny.train", description="Train the tiny model from scratch."
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report-every", type=int, default=250)
    parser.add_argument("--out", type=Path, default=WEIGHTS_PATH)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    rng = np.random.default_rng(args.seed)
    log.info("drawing %d samples", args.samples)
    samples = draw_samples(args.samples, args.seed, training_digits(), KINDS, KIND_SHARES, MAX_TURN_DEG)
    check = draw_samples(800, args.seed + 1, heldout_digits())
    params = train(
        to_examples(samples, rng, BARE_SHARE),
        to_examples(check, rng),
        args.steps,
        args.seed,
        args.report_every,
    )
    save(params, args.out)
    log.info("wrote %s, %d bytes", args.out, args.out.stat().st_size)


if __name__ == "__main__":
    main()
