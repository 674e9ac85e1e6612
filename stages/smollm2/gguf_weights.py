"""SmolLM2's GGUF file to float32 matrices and a tokenizer, and back into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.numerics import BlockedWeight
from stages.smollm2.cache import TOKENIZER_FILE
from stages.transformer import LayerWeights, TransformerWeights

Array = NDArray[np.float32]

LAYERS = 30

# Fields of `LayerWeights`, and the GGUF tensors that are laid side by side into each.
_NORMS = {"attention_norm": "attn_norm", "mlp_norm": "ffn_norm"}
_MATRICES = {
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "output": ("attn_output",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}
# `tokenizer.ggml.token_type` of control tokens such as <|im_start|>.
_CONTROL = 3


def load_language(directory: Path) -> TransformerWeights:
    """Return the language model's arrays, mapped read-only from files that `convert_language` wrote.

    Queries and keys are permuted for rotary embedding of interleaved pairs. Embedding and head hold the
    same numbers, once as rows to look up and once as blocks to multiply with.
    """
    stacks = {name: _map(directory, name) for name in (*_NORMS, *_MATRICES)}
    return TransformerWeights(
        embedding=load_embedding(directory),
        layers=tuple(_layer(stacks, index) for index in range(LAYERS)),
        final_norm=_map(directory, "final_norm"),
        head=_blocked(_map(directory, "head")),
    )


def load_embedding(directory: Path) -> Array:
    """Return the token embeddings alone, [49152, 576], mapped read-only."""
    return _map(directory, "embedding")


def _layer(stacks: Mapping[str, Array], index: int) -> LayerWeights:
    return LayerWeights(
        attention_norm=stacks["attention_norm"][index],
        qkv=_blocked(stacks["qkv"][index]),
        output=_blocked(stacks["output"][index]),
        mlp_norm=stacks["mlp_norm"][index],
        gate_up=_blocked(stacks["gate_up"][index]),
        down=_blocked(stacks["down"][index]),
    )


def _blocked(blocks: Array) -> BlockedWeight:
    return BlockedWeight(blocks=blocks, width=blocks.shape[0] * blocks.shape[2])


def _map(directory: Path, name: str) -> Array:
    # As a plain array: every slice of np.memmap is a memmap, which costs microseconds each.
    array: Array = np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r"))
    return array


def convert_language(source: Path, directory: Path, progress: Callable[[str], None]) -> None:
    """Write the tokenizer and every array of a GGUF file, as `load_language` wants them.

    Matrices are written in the blocks of `BlockedWeight.of`, all layers of a kind in one file.
    """
    from gguf.gguf_reader import GGUFReader

    reader = GGUFReader(source)
    _write_tokenizer(reader.fields, directory / TOKENIZER_FILE)
    arrays = _Tensors(reader.tensors)
    progress("smollm2: converting the embeddings")
    embedding = arrays.get("token_embd")
    np.save(directory / "embedding.npy", embedding)
    np.save(directory / "head.npy", BlockedWeight.of(embedding.T).blocks)
    np.save(directory / "final_norm.npy", arrays.get("output_norm"))
    for name, origin in _NORMS.items():
        np.save(directory / f"{name}.npy", np.stack([arrays.of_layer(i, origin) for i in range(LAYERS)]))
    for name, origins in _MATRICES.items():
        progress(f"smollm2: converting {name} of {LAYERS} layers")
        _write_stack(directory / f"{name}.npy", _matrices(arrays, origins))


class _Tensors:
    """A GGUF file's tensors by name."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def get(self, name: str) -> Array:
        return _dequantize(self._tensors[f"{name}.weight"])

    def of_layer(self, layer: int, name: str) -> Array:
        return self.get(f"blk.{layer}.{name}")


def _matrices(tensors: _Tensors, origins: Sequence[str]) -> Iterator[Array]:
    for layer in range(LAYERS):
        # GGUF stores matrices as [out, in].
        stacked = np.concatenate([tensors.of_layer(layer, origin) for origin in origins])
        yield BlockedWeight.of(stacked.T).blocks


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
