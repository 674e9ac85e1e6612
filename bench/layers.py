"""Times the layers of a model's stages on a GPU, to set derived profiles against: `python -m bench.layers`.

Needs PyTorch and a CUDA device, and nothing else of Tercet or of the other benches. Weights are random; they
do not change times. A step is timed over a few layers of the model's shape, captured as one CUDA graph, and
scaled to all its layers. No rotary embedding, sampling or scheduling is in it: what an engine adds to its
kernels is not measured here.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its name in all of PyTorch's own documents

DTYPE = torch.bfloat16
LAYERS = 4
"""Layers that are timed: their weights exceed every cache."""
REPEATS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The shape of a vision transformer.

    Attributes:
        positions: Patches and class token of one tile.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """The shape of a decoder with grouped queries and a gated feed-forward network."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int

    @property
    def head(self) -> int:
        """Return the size of a head."""
        return self.width // self.heads


ENCODERS = {
    "InternViT-6B": Encoder(layers=45, width=3200, heads=25, mlp=12_800, positions=1_025),
    "ViT-H/14 at 560": Encoder(layers=40, width=1280, heads=16, mlp=5_120, positions=1_601),
    "SigLIP-SO400M": Encoder(layers=27, width=1152, heads=16, mlp=4_304, positions=729),
}
LANGUAGE_MODELS = {
    "Llama-3-8B": LanguageModel(layers=32, width=4096, heads=32, kv_heads=8, mlp=14_336, vocabulary=128_256),
    "Qwen2-7B": LanguageModel(layers=28, width=3584, heads=28, kv_heads=4, mlp=18_944, vocabulary=152_064),
    "InternLM2-20B": LanguageModel(
        layers=48, width=6144, heads=48, kv_heads=8, mlp=16_384, vocabulary=92_553
    ),
}
PREFILL_TOKENS = (512, 2_048, 4_096)
DECODE_BATCHES = (1, 32, 128)
CONTEXTS = (1_500, 6_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One step of one model.

    Attributes:
        size: Tiles, prompt tokens or sequences of the step.
        context: Tokens in each sequence's KV cache; 0 where there is none.
        step_s: Median over the repeats.
        low_s, high_s: The 10th and the 90th percentile.
    """

    model: str
    stage: str
    size: int
    context: int
    step_s: float
    low_s: float
    high_s: float


def _weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=DTYPE) * 0.02


def _timed(step: Callable[[], Any]) -> list[float]:
    """Return seconds of one replay of the step's graph, one for each repeat."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(REPEATS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000.0)
    return times[3:]


def _summary(model: str, stage: str, size: int, context: int, times: list[float]) -> Timed:
    tenths = statistics.quantiles(times, n=10)
    return Timed(
        model=model,
        stage=stage,
        size=size,
        context=context,
        step_s=statistics.median(times),
        low_s=tenths[0],
        high_s=tenths[-1],
    )


def _scaled(
    model: str, stage: str, size: int, context: int, layers: list[float], all_layers: int, ends: list[float]
) -> Timed:
    scale = all_layers / LAYERS
    once = statistics.median(ends) if ends else 0.0
    return _summary(model, stage, size, context, [each * scale + once for each in layers])


def encode(name: str, shape: Encoder, tiles: int) -> Timed:
    """Time the encoding of tiles in one step."""
    width, head = shape.width, shape.width // shape.heads
    layers = [
        (
            _weights(3 * width, width),
            _weights(width, width),
            _weights(shape.mlp, width),
            _weights(width, shape.mlp),
        )
        for _ in range(LAYERS)
    ]
    start = _weights(tiles, shape.positions, width)

    def step() -> torch.Tensor:
        x = start
        for qkv, out, up, down in layers:
            parts = F.linear(F.layer_norm(x, (width,)), qkv).view(
                tiles, shape.positions, 3, shape.heads, head
            )
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            mixed = (
                F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tiles, shape.positions, width)
            )
            x = x + F.linear(mixed, out)
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (width,)), up)), down)
        return x

    return _scaled(name, "encode", tiles, 0, _timed(step), shape.layers, [])


class Decoder:
    """A few layers of a language model, and its head."""

    def __init__(self, shape: LanguageModel) -> None:
        self.shape = shape
        rows = (shape.heads + 2 * shape.kv_heads) * shape.head
        self.layers = [
            (
                _weights(rows, shape.width),
                _weights(shape.width, shape.width),
                _weights(2 * shape.mlp, shape.width),
                _weights(shape.width, shape.mlp),
            )
            for _ in range(LAYERS)
        ]
        self.head = _weights(shape.vocabulary, shape.width)

    def _feed_forward(self, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        gate, value = F.linear(F.rms_norm(x, (self.shape.width,)), up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * value, down)

    def _end(self, rows: int) -> list[float]:
        x = _weights(rows, self.shape.width)
        return _timed(lambda: F.linear(F.rms_norm(x, (self.shape.width,)), self.head).argmax(-1))

    def prefill(self, name: str, tokens: int) -> Timed:
        """Time a prefill step over one prompt of these tokens."""
        shape = self.shape
        start = _weights(tokens, shape.width)

        def step() -> torch.Tensor:
            x = start
            for qkv, out, up, down in self.layers:
                parts = F.linear(F.rms_norm(x, (shape.width,)), qkv)
                heads = parts.view(1, tokens, shape.heads + 2 * shape.kv_heads, shape.head).transpose(1, 2)
                q, k, v = heads.split((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                x = x + F.linear(mixed.transpose(1, 2).reshape(tokens, shape.width), out)
                x = self._feed_forward(x, up, down)
            return x

        return _scaled(name, "prefill", tokens, 0, _timed(step), shape.layers, self._end(1))

    def decode(self, name: str, batch: int, context: int) -> Timed:
        """Time a decode step: one token for each sequence."""
        shape = self.shape
        start = _weights(batch, shape.width)
        group = shape.heads // shape.kv_heads
        caches = [
            tuple(_weights(batch, shape.kv_heads, context, shape.head) for _ in range(2))
            for _ in range(LAYERS)
        ]

        def step() -> torch.Tensor:
            x = start
            for (qkv, out, up, down), (k, v) in zip(self.layers, caches, strict=True):
                q = F.linear(F.rms_norm(x, (shape.width,)), qkv)[:, : shape.width]
                # One query sees the whole cache, so the queries of a group stand where positions do.
                grouped = q.view(batch, shape.kv_heads, group, shape.head)
                mixed = F.scaled_dot_product_attention(grouped, k, v).reshape(batch, shape.width)
                x = x + F.linear(mixed, out)
                x = self._feed_forward(x, up, down)
            return x

        return _scaled(name, "decode", batch, context, _timed(step), shape.layers, self._end(batch))


def product_flop_per_s() -> float:
    """Return what this GPU reaches in a large product, in floating-point operations a second."""
    a, b = _weights(8192, 8192), _weights(8192, 8192)
    return 2.0 * 8192**3 / statistics.median(_timed(lambda: a @ b))


def measure(report: Callable[[Timed], None]) -> None:
    """Time everything, telling each result as it comes."""
    for name, shape in ENCODERS.items():
        for tiles in (1, 5, 20):
            report(encode(name, shape, tiles))
    for name, of in LANGUAGE_MODELS.items():
        model = Decoder(of)
        for tokens in PREFILL_TOKENS:
            report(model.prefill(name, tokens))
        for context in CONTEXTS:
            for batch in DECODE_BATCHES:
                report(model.decode(name, batch, context))
                torch.cuda.empty_cache()


def main() -> None:
    """Print a line for each step; with --json, keep them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="Keep the figures in this file.")
    kept: list[dict[str, Any]] = []
    args = parser.parse_args()
    with torch.no_grad():
        reached = product_flop_per_s()
    device = torch.cuda.get_device_name()
    print(f"{device}, PyTorch {torch.__version__}: {reached / 1e12:.0f} TFLOP/s in a large product")

    def report(timed: Timed) -> None:
        kept.append(asdict(timed))
        print(
            f"{timed.model:16} {timed.stage:8} {timed.size:5} context {timed.context:5} "
            f"{1000 * timed.step_s:9.3f} ms [{1000 * timed.low_s:.3f} … {1000 * timed.high_s:.3f}]",
            flush=True,
        )
        if args.json:
            args.json.write_text(
                json.dumps({"device": device, "product_flop_per_s": reached, "steps": kept}, indent=1)
            )

    with torch.no_grad():
        measure(report)


if __name__ == "__main__":
    main()
