"""The decoder of `tiny` on the shared core."""

from stages.numerics import BlockedWeight
from stages.tiny.front import TinyFront
from stages.tiny.weights import Weights
from stages.transformer import LayerWeights, Transformer, TransformerConfig, TransformerWeights

CONFIG = TransformerConfig(
    layers=3, width=128, heads=4, kv_heads=4, head_dim=32, max_context=TinyFront.max_context, theta=1e4
)


def language_model(weights: Weights) -> Transformer:
    """Return the decoder with the arrays `emb`, `lm.*` and `ln` of `weights`."""
    layers = tuple(
        LayerWeights(
            attention_norm=weights[f"lm.{i}.n1"],
            qkv=BlockedWeight.of(weights[f"lm.{i}.qkv"]),
            output=BlockedWeight.of(weights[f"lm.{i}.o"]),
            mlp_norm=weights[f"lm.{i}.n2"],
            gate_up=BlockedWeight.of(weights[f"lm.{i}.gu"]),
            down=BlockedWeight.of(weights[f"lm.{i}.dn"]),
        )
        for i in range(CONFIG.layers)
    )
    embedding = weights["emb"]
    return Transformer(
        CONFIG,
        TransformerWeights(
            embedding=embedding, layers=layers, final_norm=weights["ln"], head=BlockedWeight.of(embedding.T)
        ),
    )
