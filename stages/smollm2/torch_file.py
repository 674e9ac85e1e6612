"""Read a torch checkpoint of 2020's format without torch and without trusting it.

The file is five pickles (magic, protocol, machine, state dict, storage keys) followed by the raw
storages. A pickle may name any callable; this reader knows four names and refuses all others.
Format: `torch.serialization._legacy_save`.
"""

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: tuple[Any, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def rebuild(
        cls,
        storage: tuple[Any, ...],
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: object,
    ) -> "_Tensor":
        return cls(storage, offset, shape, strides)

    @property
    def key(self) -> str:
        return str(self.storage[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.storage[1]
        return dtype


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor.rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"refused global {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def load_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a checkpoint by name, as copies in C order.

    Raises:
        pickle.UnpicklingError: Not a checkpoint of this format, or it names a global that a
            state dict has no need of.
    """
    with path.open("rb") as file:
        if _load(file) != _MAGIC:
            raise pickle.UnpicklingError(f"{path} is not a torch checkpoint of the legacy format")
        _load(file), _load(file)
        tensors: dict[str, _Tensor] = _load(file)
        dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
        storages = {key: _storage(file, dtypes[key]) for key in _load(file)}
    return {name: _view(storages[tensor.key], tensor) for name, tensor in tensors.items()}


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file).load()


def _storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    (count,) = struct.unpack("<q", file.read(8))
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def _view(storage: NDArray[Any], tensor: _Tensor) -> NDArray[Any]:
    steps = [stride * storage.itemsize for stride in tensor.strides]
    span = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) + 1
    if span > storage.size or tensor.offset < 0 or min(tensor.strides, default=0) < 0:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, steps).copy()
