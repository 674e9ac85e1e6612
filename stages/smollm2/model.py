"""SmolLM2's decoder on the shared core."""

from pathlib import Path

from stages.smollm2.front import SmolFront
from stages.smollm2.gguf_weights import LAYERS, load_language
from stages.transformer import LayerWeights, Rope, Transformer, TransformerConfig, TransformerWeights

CONFIG = TransformerConfig(
    layers=LAYERS,
    width=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    max_context=SmolFront.max_context,
    theta=1e5,
    rope=Rope.PAIRS,
    eps=1e-5,
)


def language_model(directory: Path) -> Transformer:
    """Return the decoder with the weights of a directory that `prepare` made, mapped read-only."""
    weights = load_language(directory)
    layers = tuple(
        LayerWeights(
            attention_norm=weights[f"lm.{i}.n1"],
            qkv=weights[f"lm.{i}.qkv"],
            output=weights[f"lm.{i}.o"],
            mlp_norm=weights[f"lm.{i}.n2"],
            gate_up=weights[f"lm.{i}.gu"],
            down=weights[f"lm.{i}.dn"],
        )
        for i in range(LAYERS)
    )
    embedding = weights["emb"]
    return Transformer(
        CONFIG,
        TransformerWeights(embedding=embedding, layers=layers, final_norm=weights["ln"], head=embedding.T),
    )
