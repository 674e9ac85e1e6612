"""Times the layers of a model's stages on a GPU, to set derived profiles against: `python -m bench.layers`.

Needs PyTorch and a CUDA device, and nothing else of Tercet or of the other benches. Weights are random; they
do not change times. A step is timed over a few layers of the model's shape, captured as one CUDA graph, and
scaled to all its layers. No rotary embedding, sampling or scheduling is in it: what an engine adds to its
kernels is not measured here.

Two stages on one GPU are timed too: a chunk of a prompt and a token of each running sequence in one step,
beside what the simulator takes for it (prefill step + decode step − decode step of one sequence: weights
are read once); and images encoded while a decode step runs, beside one after the other.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 -- its name in all of PyTorch's own documents

DTYPE = torch.bfloat16
LAYERS = 4
"""Layers that are timed: their weights exceed every cache."""
REPEATS = 30
Step = Callable[[], torch.Tensor]


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
        sequences: Of another stage: sequences that decode in the same step.
        context: Tokens in each decoding sequence's KV cache; 0 where there is none.
        step_s: Median over the repeats.
        low_s, high_s: The 10th and the 90th percentile.
    """

    model: str
    stage: str
    size: int
    sequences: int
    context: int
    step_s: float
    low_s: float
    high_s: float


def _weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=DTYPE) * 0.02


def _timed(step: Step) -> list[float]:
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


def _scaled(
    model: str,
    stage: str,
    size: int,
    context: int,
    layers: list[float],
    all_layers: int,
    *,
    end_s: float = 0.0,
    sequences: int = 0,
) -> Timed:
    """Return the summary of a step, from the times of its first layers and of what comes once behind them."""
    times = [each * all_layers / LAYERS + end_s for each in layers]
    tenths = statistics.quantiles(times, n=10)
    return Timed(
        model=model,
        stage=stage,
        size=size,
        sequences=sequences,
        context=context,
        step_s=statistics.median(times),
        low_s=tenths[0],
        high_s=tenths[-1],
    )


def encode_step(shape: Encoder, tiles: int) -> Step:
    """Return a step that encodes tiles."""
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

    return step


def encode(name: str, shape: Encoder, tiles: int) -> Timed:
    """Time the encoding of tiles in one step."""
    return _scaled(name, "encode", tiles, 0, _timed(encode_step(shape, tiles)), shape.layers)


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

    def prefill(self, name: str, tokens: int) -> Timed:
        """Time a prefill step over one prompt of these tokens."""
        times = _timed(self.step(tokens, 0, 0))
        return _scaled(name, "prefill", tokens, 0, times, self.shape.layers, end_s=self._end_s(1))

    def decode(self, name: str, batch: int, context: int) -> Timed:
        """Time a decode step: one token for each sequence."""
        times = _timed(self.step(0, batch, context))
        return _scaled(name, "decode", batch, context, times, self.shape.layers, end_s=self._end_s(batch))

    def mixed(self, name: str, tokens: int, batch: int, context: int) -> Timed:
        """Time a step over one prompt of these tokens that makes a token for each sequence of a batch too."""
        times, end_s = _timed(self.step(tokens, batch, context)), self._end_s(batch + 1)
        return _scaled(name, "mixed", tokens, context, times, self.shape.layers, end_s=end_s, sequences=batch)

    def step(self, tokens: int, batch: int, context: int) -> Step:
        """Return a step over the tokens of one prompt, which come first, and one of each sequence."""
        shape, rows = self.shape, tokens + batch
        start = _weights(rows, shape.width)
        caches = [
            tuple(_weights(batch, shape.kv_heads, context, shape.head) for _ in range(2))
            for _ in range(LAYERS)
        ]

        def step() -> torch.Tensor:
            x = start
            for (qkv, out, up, down), cache in zip(self.layers, caches, strict=True):
                parts = F.linear(F.rms_norm(x, (shape.width,)), qkv)
                seen = [self._prompt(parts[:tokens])] if tokens else []
                seen += [self._sequences(parts[tokens:], *cache)] if batch else []
                x = x + F.linear(torch.cat(seen) if len(seen) > 1 else seen[0], out)
                x = self._feed_forward(x, up, down)
            return x

        return step

    def _prompt(self, parts: torch.Tensor) -> torch.Tensor:
        """Attend within a prompt: (tokens, query, key and value widths) → (tokens, width)."""
        shape = self.shape
        heads = parts.view(1, -1, shape.heads + 2 * shape.kv_heads, shape.head).transpose(1, 2)
        q, k, v = heads.split((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2).reshape(-1, shape.width)

    def _sequences(self, parts: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend to each sequence's cache: (sequences, query, key and value widths) → (sequences, width)."""
        shape = self.shape
        # One query sees the whole cache, so the queries of a group stand where positions do.
        grouped = parts[:, : shape.width].reshape(
            -1, shape.kv_heads, shape.heads // shape.kv_heads, shape.head
        )
        return F.scaled_dot_product_attention(grouped, k, v).reshape(-1, shape.width)

    def _feed_forward(self, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        gate, value = F.linear(F.rms_norm(x, (self.shape.width,)), up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * value, down)

    def _end_s(self, rows: int) -> float:
        x = _weights(rows, self.shape.width)
        return statistics.median(
            _timed(lambda: F.linear(F.rms_norm(x, (self.shape.width,)), self.head).argmax(-1))
        )


def beside(first: Step, second: Step) -> Step:
    """Return a step that runs two others at once, each on a stream of its own."""
    stream = torch.cuda.Stream()

    def step() -> torch.Tensor:
        here = torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            second()
        done = first()
        here.wait_stream(stream)
        return done

    return step


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
        for tokens, batch, context in product(PREFILL_TOKENS, DECODE_BATCHES[1:], CONTEXTS):
            report(model.mixed(name, tokens, batch, context))
            torch.cuda.empty_cache()


def measure_beside(report: Callable[[Timed], None]) -> None:
    """Time layers of an encoder over tiles, layers of a model over a batch, and both at once."""
    for (encoder, shape), (name, of) in product(ENCODERS.items(), LANGUAGE_MODELS.items()):
        tiles, batch, context = 5, DECODE_BATCHES[-1], CONTEXTS[0]
        images, tokens = encode_step(shape, tiles), Decoder(of).step(0, batch, context)
        pair = f"{encoder} | {name}"
        for stage, step in (("encode", images), ("decode", tokens), ("both", beside(images, tokens))):
            report(_scaled(pair, stage, tiles, context, _timed(step), LAYERS, sequences=batch))
        torch.cuda.empty_cache()


def main() -> None:
    """Print a line for each step; with --json, keep them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="Keep the figures in this file.")
    kept: list[Timed] = []
    args = parser.parse_args()
    with torch.no_grad():
        reached = product_flop_per_s()
    device = torch.cuda.get_device_name()
    print(f"{device}, PyTorch {torch.__version__}: {reached / 1e12:.0f} TFLOP/s in a large product")

    def report(timed: Timed) -> None:
        kept.append(timed)
        print(line(timed, kept), flush=True)
        if args.json:
            steps = [asdict(each) for each in kept]
            args.json.write_text(
                json.dumps({"device": device, "product_flop_per_s": reached, "steps": steps}, indent=1)
            )

    with torch.no_grad():
        measure(report)
        measure_beside(report)


def line(timed: Timed, kept: Sequence[Timed]) -> str:
    """Return the figures of a step, and over what it would be expected to take from those before it."""
    said = (
        f"{timed.model:30} {timed.stage:8} {timed.size:5} with {timed.sequences:3} at {timed.context:5} "
        f"{1000 * timed.step_s:9.3f} ms [{1000 * timed.low_s:.3f} … {1000 * timed.high_s:.3f}]"
    )
    expected_s = expected(timed, kept)
    return (
        said if expected_s is None else f"{said} {timed.step_s / expected_s:.2f} of {1000 * expected_s:.3f}"
    )


def expected(timed: Timed, kept: Sequence[Timed]) -> float | None:
    """Return the seconds of a step of two stages by the times of each alone; None for a step of one stage."""

    def alone(stage: str, size: int, context: int) -> float:
        return next(
            each.step_s
            for each in kept
            if (each.model, each.stage, each.size, each.context) == (timed.model, stage, size, context)
        )

    if timed.stage == "both":
        return sum(alone(stage, timed.size, timed.context) for stage in ("encode", "decode"))
    if timed.stage == "mixed":
        decode_s = alone("decode", timed.sequences, timed.context) - alone("decode", 1, min(CONTEXTS))
        return alone("prefill", timed.size, 0) + decode_s
    return None


if __name__ == "__main__":
    main()
