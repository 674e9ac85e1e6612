"""A model small enough for laws: random weights, grouped heads, a letter per token."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from stages.front import Turn
from stages.limits import EngineLimits
from stages.transformer import LayerWeights, Rope, Transformer, TransformerConfig, TransformerWeights
from stages.types import MediaSpan, Modality, Prompt

VOCABULARY = 29
EOS = 1
LETTERS = "~#abcdefghijklmnopqrstuvwxyz."


# Wide enough that products of other shapes do round differently: a law that cannot fail proves nothing.
def small_model(rope: Rope = Rope.HALVES, *, seed: int = 3, **sizes) -> Transformer:
    shape = {
        "layers": 2,
        "width": 80,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "max_context": 96,
        "theta": 1e4,
    }
    config = TransformerConfig(**(shape | sizes), rope=rope, kv_tile=16)
    rng = np.random.default_rng(seed)

    def array(*shape):
        return (rng.standard_normal(shape) * 1.5 * shape[0] ** -0.5).astype(np.float32)

    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layers = tuple(
        LayerWeights(
            attention_norm=1 + array(config.width),
            qkv=array(config.width, q + 2 * kv),
            output=array(q, config.width),
            mlp_norm=1 + array(config.width),
            gate_up=array(config.width, 2 * 136),
            down=array(136, config.width),
        )
        for _ in range(config.layers)
    )
    weights = TransformerWeights(
        embedding=rng.standard_normal((VOCABULARY, config.width)).astype(np.float32),
        layers=layers,
        final_norm=1 + array(config.width),
        head=array(config.width, VOCABULARY),
    )
    return Transformer(config, weights)


class LetterFront:
    """`ModelFront` of the small model: a token is a letter."""

    name = "letters"
    modalities = frozenset({Modality.TEXT})
    max_context = 96
    kv_bytes_per_token = 2 * 2 * 2 * 16 * 4
    eos_token = EOS
    default_max_tokens = 8

    def media_tokens(self, modality: Modality, width_px: int, height_px: int, frames: int) -> int:
        return frames

    def prompt(
        self, turns: Sequence[Turn], media_hashes: Sequence[str], media_tokens: Sequence[int]
    ) -> Prompt:
        spans, offset = [], 0
        for name, length in zip(media_hashes, media_tokens, strict=True):
            spans.append(MediaSpan(offset=offset, length=length, content_hash=name))
            offset += length
        text = "".join(turn.text for turn in turns)
        return Prompt(token_ids=(0,) * offset + tuple(map(LETTERS.index, text)), media=tuple(spans))

    def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join(LETTERS[t] for t in tokens)


def limits(model: Transformer, *, tokens: int = 4096, **others) -> EngineLimits:
    return EngineLimits(kv_budget_bytes=tokens * model.config.kv_bytes_per_token, **others)


_numbers = itertools.count(1)


def job_fields(key: str = "", deadline_s: float = 60.0) -> dict:
    return {
        "request_id": key or f"r{next(_numbers)}",
        "hop": "h",
        "attempt": 1,
        "reply_to": "",
        "model": "letters",
        "deadline_unix_s": time.time() + deadline_s,
    }


def eventually(fact: Callable[[], bool], within_s: float = 10.0) -> None:
    """Poll until `fact` holds."""
    tick = threading.Event()
    until_s = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < until_s, "never came true"
        tick.wait(0.002)


class Call(threading.Thread):
    """A blocking call on a thread of its own."""

    def __init__(self, call: Callable, *args) -> None:
        super().__init__(daemon=True)
        self._call, self._args = call, args
        self._result, self._error = None, None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call(*self._args)
        except BaseException as error:
            self._error = error

    def result(self, within_s: float = 30.0):
        self.join(within_s)
        assert not self.is_alive(), "still running"
        if self._error is not None:
            raise self._error
        return self._result
