"""SmolLM2's GGUF file to float32 matrices and a tokenizer, and back into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.smollm2.prepare import TOKENIZER_FILE

Array = NDArray[np.float32]

LAYERS = 30

# GGUF tensors of a block that are laid side by side into one matrix, as [in, out].
_BLOCK = {
    "n1": ("attn_norm",),
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "o": ("attn_output",),
    "n2": ("ffn_norm",),
    "gu": ("ffn_gate", "ffn_up"),
    "dn": ("ffn_down",),
}
_EMBEDDING, _FINAL_NORM = "emb", "ln"
# `tokenizer.ggml.token_type` of control tokens such as <|im_start|>.
_CONTROL = 3


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


def load_embedding(directory: Path) -> Array:
    """Return the token embeddings alone, [49152, 576], mapped read-only."""
    return _map(directory / "emb.npy")


def _map(path: Path) -> Array:
    # As a plain array: every slice of np.memmap is a memmap, which costs microseconds each.
    array: Array = np.asarray(np.load(path, mmap_mode="r"))
    return array


def convert_language(source: Path, directory: Path, progress: Callable[[str], None]) -> None:
    """Write the tokenizer and every matrix of a GGUF file, as `load_language` wants them."""
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
