"""The parameters by which vLLM's EC connectors tell a prefill engine where embeddings are."""

import re

from stages.emulator.config import EmulatorConfig
from stages.emulator.errors import EngineError, wrong_value
from stages.emulator.media import Json, Medium

_NEWER = (0, 33)
"""From here on entries say the modality and, of ECCPUConnector, the peer, the bytes and the shape."""
_ROW_BYTES = 8192


def ec_entry(medium: Medium, index: int, config: EmulatorConfig) -> Json:
    """Return what an encode engine says of one medium: the entry under its key.

    Args:
        medium: That was encoded.
        index: Of the item in its request.
        config: Of the engine.
    """
    entry: Json = {"item_indices": [index], "metadata": {"image_grid_thw": list(medium.grid)}}
    if not _is_newer(config):
        return entry
    return {
        "modality": medium.modality,
        **entry,
        "peer_host": config.side_host,
        "peer_port": config.side_port,
        "size_bytes": medium.tokens * _ROW_BYTES,
        "shape": [medium.tokens, _ROW_BYTES // 2],
    }


def check_ec_params(params: Json | None, config: EmulatorConfig) -> None:
    """Raise EngineError if `ec_transfer_params` are not entries as encode engines gave them.

    A real engine computes what it does not find without a word, which no test would notice.
    """
    needed = ("modality", "item_indices", "peer_host") if _is_newer(config) else ("item_indices",)
    for key, entry in (params or {}).items():
        missing = [name for name in needed if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise _broken(f"{key[:16]} has no {missing[0]}")


def _is_newer(config: EmulatorConfig) -> bool:
    return tuple(map(int, re.findall(r"\d+", config.release)))[: len(_NEWER)] >= _NEWER


def _broken(what: str) -> EngineError:
    told = f"Contract: ec_transfer_params must be passed on as they were given: {what}."
    return wrong_value(told, "ec_transfer_params")
