"""SmolLM2's decoder on the shared core."""

from pathlib import Path

from stages.smollm2.front import SmolFront
from stages.smollm2.gguf_weights import LAYERS, load_language
from stages.transformer import Rope, Transformer, TransformerConfig

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
    return Transformer(CONFIG, load_language(directory))
