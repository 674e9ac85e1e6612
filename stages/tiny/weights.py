"""Load the committed weights of `tiny`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.tiny.vocab import VOCABULARY

Weights = Mapping[str, NDArray[np.float32]]
"""Arrays by name, C-contiguous float32, matrices as [in, out].

Vision: `pe` [192, 96] and `pos` [36, 96] embed the patches; `vit.<i>.*` blocks of width 96; `vn` [96];
`pj1` [384, 256] and `pj2` [256, 128] project merged patches to soft tokens.
Language: `emb` [37, 128], also the output head; `lm.<i>.*` blocks of width 128; `ln` [128].
A block of width d has `n1` [d], `qkv` [d, 3 d], `o` [d, d], `n2` [d], `gu` [d, 6 d] (gate, then up) and
`dn` [3 d, d].
"""

WEIGHTS_PATH = Path(__file__).with_name("tiny.npz")


def load_weights(path: Path = WEIGHTS_PATH) -> Weights:
    """Return the arrays of an npz file that `stages.tiny.train` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such file, holds pickled objects, or has another vocabulary.
    """
    with np.load(path, allow_pickle=False) as archive:
        vocabulary = tuple(str(word) for word in archive["vocab"])
        if vocabulary != VOCABULARY:
            raise ValueError(f"{path}: trained with another vocabulary; run `make train-tiny`")
        names = [name for name in archive.files if name != "vocab"]
        return {name: np.ascontiguousarray(archive[name], dtype=np.float32) for name in names}
