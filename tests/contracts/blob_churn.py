"""A process that uses a blob directory together with others: `blob_churn.py DIR SEED STEPS WORK`.

`own`: put, retain, read, release and sweep; what this process's owners hold is always there.
`shared`: put and release under one owner that all processes share; no put ever fails.
"""

import random
import sys
import time
from pathlib import Path

from stages.blobs import BlobSettings, BlobStore, open_store
from stages.engines import BlobUnavailable
from stages.types import BlobHandle


def own(store: BlobStore, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    held: dict[str, list[tuple[BlobHandle, bytes]]] = {}
    for step in range(steps):
        owner = f"owner {seed} {rng.randrange(5)}"
        match rng.randrange(5):
            case 0 | 1:
                data = rng.randbytes(rng.randrange(2_000))
                held.setdefault(owner, []).append((store.put(data, owner=owner, ttl_s=600), data))
            case 2 if held:
                handle, data = rng.choice(held[rng.choice(list(held))])
                held.setdefault(owner, []).append((store.retain(handle, owner), data))
            case 3:
                store.release(owner)
                held.pop(owner, None)
            case _:
                store.sweep(time.time())
                store.release(f"owner {seed + 1} nobody's {step}")
        for handle, data in held.get(owner, [])[-3:]:
            assert bytes(store.get(handle)) == data
    for owner in held:
        store.release(owner)


def shared(store: BlobStore, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    for _ in range(steps):
        handle = store.put(rng.randbytes(100), owner="everybody's", ttl_s=600)
        if rng.random() < 0.5:
            store.release("everybody's")
        try:
            assert len(store.get(handle)) == 100
        except BlobUnavailable as error:
            assert "missing" in str(error)
    store.release("everybody's")


if __name__ == "__main__":
    directory, seed, steps, work = sys.argv[1:]
    {"own": own, "shared": shared}[work](open_store(BlobSettings(dir=Path(directory))), int(seed), int(steps))
