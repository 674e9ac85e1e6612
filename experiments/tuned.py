"""What a search has found, kept on disk: the points of an experiment that share it search once."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from experiments.store import fingerprint

FOLDER = Path(".experiments") / "tuned"
T = TypeVar("T")


def found(name: str, search: Callable[[], T]) -> T:
    """Return what a search of this name found with this code, searching if it has not been done.

    Args:
        name: Says all that the search depends on, but for the code.
        search: Its result is plain data.
    """
    digest = hashlib.sha256(f"{fingerprint()} {name}".encode()).hexdigest()[:16]
    file = FOLDER / f"{digest}.pickle"
    if file.exists():
        kept: T = pickle.loads(file.read_bytes())  # noqa: S301 -- our own, of this very code
        return kept
    result = search()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{id(result)}.partial")
    partial.write_bytes(pickle.dumps(result))
    partial.replace(file)
    return result
