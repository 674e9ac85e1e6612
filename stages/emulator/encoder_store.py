"""Embeddings that encoders leave for others, in a shared folder as vLLM's ECExampleConnector has it.

A file holds no embedding but the digest of what was encoded: whoever uses it answers for that content, so
that a wrong one shows in the answer.
"""

import hashlib
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import msgspec

from stages.emulator.media import Medium

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FILE = "encoder_cache.safetensors"
_KEPT = 65_536


class EncoderStore:
    """A shared folder of embeddings.

    Attributes:
        saved: Embeddings written by this process.
        hits: Embeddings found; `misses` those that were not there.
        lost: Fault: nothing is found, as if another had evicted it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: OrderedDict[str, None] = OrderedDict()
        self.saved = 0
        self.hits = 0
        self.misses = 0
        self.lost = False

    def save(self, key: str, medium: Medium) -> None:
        """Leave an embedding under a key; whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        unfinished.write_bytes(msgspec.json.encode({"content": medium.content}))
        unfinished.replace(path)
        self.saved += 1
        self._own[key] = None
        self._own.move_to_end(key)
        if len(self._own) > _KEPT:
            self._remove(self._own.popitem(last=False)[0])

    def load(self, key: str) -> str | None:
        """Return the content whose embedding is under a key, None if there is none."""
        found = None if self.lost else self._read(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def evict(self) -> None:
        """Remove what this process has left."""
        while self._own:
            self._remove(self._own.popitem()[0])

    def _read(self, key: str) -> str | None:
        try:
            return str(msgspec.json.decode(self._path(key).read_bytes())["content"])
        except (OSError, msgspec.MsgspecError, KeyError, TypeError):
            return None

    def _remove(self, key: str) -> None:
        shutil.rmtree(self._path(key).parent, ignore_errors=True)

    def _path(self, key: str) -> Path:
        """Return the file of a key; clients choose keys, so one that is no plain name goes by its digest."""
        name = key if _PLAIN.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name / _FILE
