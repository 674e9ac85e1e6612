"""Write a model of Qwen2.5-VL's shape that vLLM serves on a processor: `python tiny_vlm.py FOLDER`.

It runs with vLLM's Python, which has safetensors and tokenizers; nothing is fetched. The weights are random
with the scale of trained ones, so that each answer depends on every token of the prompt and on the pixels
of its images, and a wrong embedding or KV cache shows. (vLLM's own `--load-format dummy` draws weights so
small that every prompt gets one answer.)
"""

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_WIDTH, FF_WIDTH = 128, 2, 4, 2, 32, 256
"""Of the language model; vLLM's attention on a processor takes heads of 32 or more."""
EYE_WIDTH, EYE_LAYERS, EYE_HEADS, EYE_FF_WIDTH = 64, 2, 2, 128
PATCH_PX, MERGE = 14, 2
"""An image token is `MERGE` by `MERGE` patches of `PATCH_PX` by `PATCH_PX` pixels."""
IMAGE_TOKENS = (4, 64)
CONTEXT = 2048
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{%- for m in messages -%}<|im_start|>{{ m['role'] }}\n"
    "{%- if m['content'] is string -%}{{ m['content'] }}{%- else -%}{%- for p in m['content'] -%}"
    "{%- if p['type'] in ('image', 'image_url') -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif p['type'] in ('video', 'video_url') -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif 'text' in p -%}{{ p['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def main(folder: Path) -> None:
    """Write tokenizer, settings and weights."""
    tokenizer, vocabulary = syllables()
    tokenizer.save(str(folder / "tokenizer.json"))
    known = tokenizer.get_vocab()
    ids = {name: known[name] for name in SPECIALS}
    rows = -(-tokenizer.get_vocab_size() // 64) * 64
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for name, fields in settings(ids, rows).items():
        (folder / name).write_text(json.dumps(fields, indent=1))
    drawn = weights(rows)
    # Special tokens and unprintable bytes are never said: an answer is text, and ends at max_tokens.
    unsaid = [number for token, number in vocabulary.items() if len(token) == 1 and not _printable(token)]
    drawn["lm_head.weight"][[*unsaid, *ids.values(), *range(tokenizer.get_vocab_size(), rows)]] = 0
    save_file(drawn, str(folder / "model.safetensors"), metadata={"format": "pt"})


def syllables() -> tuple[Tokenizer, dict[str, int]]:
    """Return a byte-level tokenizer that also knows syllables, and its vocabulary without special tokens."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    pairs = list(product("bcdfghjklmnpqrstvwxyz", "aeiou"))
    begun = [(consonant + vowel, end) for (consonant, vowel), end in product(pairs, "nrstlmdk")]
    for left, right in [*pairs, *begun, *(("Ġ", consonant + vowel) for consonant, vowel in pairs)]:
        vocabulary[left + right] = len(vocabulary)
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return tokenizer, vocabulary


def settings(ids: dict[str, int], rows: int) -> dict[str, dict[str, Any]]:
    """Return what the files beside the weights say, by file.

    Args:
        ids: Of the special tokens.
        rows: Of the embedding: the vocabulary, rounded up.
    """
    begin, end = ids["<|endoftext|>"], ids["<|im_end|>"]
    token_px = (PATCH_PX * MERGE) ** 2
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "additional_special_tokens": SPECIALS[1:],
            "chat_template": TEMPLATE,
        },
        "generation_config.json": {"eos_token_id": end, "pad_token_id": begin},
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": IMAGE_TOKENS[0] * token_px,
            "max_pixels": IMAGE_TOKENS[1] * token_px,
            "patch_size": PATCH_PX,
            "temporal_patch_size": 2,
            "merge_size": MERGE,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        "config.json": {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "torch_dtype": "float32",
            "tie_word_embeddings": False,
            "vocab_size": rows,
            "bos_token_id": begin,
            "eos_token_id": end,
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            **_language_shape(),
            "vision_config": _vision_shape(),
        },
    }


def weights(rows: int) -> dict[str, Any]:
    """Return float32 arrays by their names in Qwen2.5-VL's checkpoints.

    Args:
        rows: Of the embedding.
    """
    drawn = _Drawn()
    drawn.arrays["visual.patch_embed.proj.weight"] = drawn.normal(
        (EYE_WIDTH, 3, 2, PATCH_PX, PATCH_PX), 3 / np.sqrt(3 * 2 * PATCH_PX**2)
    )
    for layer in range(EYE_LAYERS):
        _draw_vision_layer(drawn, f"visual.blocks.{layer}.")
    drawn.norm("visual.merger.ln_q", EYE_WIDTH)
    drawn.linear("visual.merger.mlp.0", 4 * EYE_WIDTH, 4 * EYE_WIDTH, bias=True)
    drawn.linear("visual.merger.mlp.2", WIDTH, 4 * EYE_WIDTH, bias=True)
    drawn.arrays["model.embed_tokens.weight"] = drawn.normal((rows, WIDTH), 0.5)
    for layer in range(LAYERS):
        _draw_language_layer(drawn, f"model.layers.{layer}.")
    drawn.norm("model.norm", WIDTH)
    drawn.linear("lm_head", rows, WIDTH, gain=4)
    return drawn.arrays


class _Drawn:
    """Random arrays by name, the same at each run."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}
        self._random = np.random.default_rng(0)

    def normal(self, shape: tuple[int, ...], scale: float) -> Any:
        return (self._random.standard_normal(shape) * scale).astype(np.float32)

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool = False, gain: float = 1) -> None:
        self.arrays[f"{name}.weight"] = self.normal((outputs, inputs), gain / np.sqrt(inputs))
        if bias:
            self.arrays[f"{name}.bias"] = self.normal((outputs,), 0.1)

    def norm(self, name: str, width: int) -> None:
        self.arrays[f"{name}.weight"] = np.ones(width, np.float32)


def _draw_vision_layer(drawn: _Drawn, layer: str) -> None:
    drawn.norm(f"{layer}norm1", EYE_WIDTH)
    drawn.norm(f"{layer}norm2", EYE_WIDTH)
    drawn.linear(f"{layer}attn.qkv", 3 * EYE_WIDTH, EYE_WIDTH, bias=True)
    drawn.linear(f"{layer}attn.proj", EYE_WIDTH, EYE_WIDTH, bias=True)
    drawn.linear(f"{layer}mlp.gate_proj", EYE_FF_WIDTH, EYE_WIDTH, bias=True)
    drawn.linear(f"{layer}mlp.up_proj", EYE_FF_WIDTH, EYE_WIDTH, bias=True)
    drawn.linear(f"{layer}mlp.down_proj", EYE_WIDTH, EYE_FF_WIDTH, bias=True)


def _draw_language_layer(drawn: _Drawn, layer: str) -> None:
    drawn.norm(f"{layer}input_layernorm", WIDTH)
    drawn.norm(f"{layer}post_attention_layernorm", WIDTH)
    # Twice the usual scale: attention that looks at some tokens more than at others.
    drawn.linear(f"{layer}self_attn.q_proj", HEADS * HEAD_WIDTH, WIDTH, bias=True, gain=2)
    drawn.linear(f"{layer}self_attn.k_proj", KV_HEADS * HEAD_WIDTH, WIDTH, bias=True, gain=2)
    drawn.linear(f"{layer}self_attn.v_proj", KV_HEADS * HEAD_WIDTH, WIDTH, bias=True, gain=2)
    drawn.linear(f"{layer}self_attn.o_proj", WIDTH, HEADS * HEAD_WIDTH, gain=2)
    drawn.linear(f"{layer}mlp.gate_proj", FF_WIDTH, WIDTH)
    drawn.linear(f"{layer}mlp.up_proj", FF_WIDTH, WIDTH)
    drawn.linear(f"{layer}mlp.down_proj", WIDTH, FF_WIDTH)


def _language_shape() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": FF_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "max_window_layers": LAYERS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "use_sliding_window": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    }


def _vision_shape() -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "depth": EYE_LAYERS,
        "hidden_size": EYE_WIDTH,
        "hidden_act": "silu",
        "intermediate_size": EYE_FF_WIDTH,
        "num_heads": EYE_HEADS,
        "in_chans": 3,
        "in_channels": 3,
        "out_hidden_size": WIDTH,
        "patch_size": PATCH_PX,
        "spatial_merge_size": MERGE,
        "spatial_patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "fullatt_block_indexes": [EYE_LAYERS - 1],
    }


def _printable(byte: str) -> bool:
    return "!" <= byte <= "~" or byte == "Ġ"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
