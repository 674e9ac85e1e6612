"""The parameters by which vLLM's KV connector tells a decode engine where a KV cache is (NIXL, pull)."""

from dataclasses import dataclass
from typing import Any

from stages.emulator.config import EmulatorConfig
from stages.emulator.errors import wrong_value

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSource:
    """Where a KV cache waits.

    Attributes:
        engine_id: Of the engine that has it: new at every start. Empty: whichever listens there.
        request_id: Of the request that made it.
        tokens: That it holds.
        coming: It may not be made yet; whoever fetches it waits.
    """

    host: str
    port: int
    engine_id: str
    request_id: str
    tokens: int
    coming: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOrder:
    """What a request wants done with KV caches beside computing: keep its own, or begin with another's.

    Attributes:
        keep: Whether to keep its own for a decode engine.
        room: Name under which that asks for it, and until it has, prefill does not answer; empty: it answers
            at once, and says where the KV cache is.
        source: Another's.
    """

    keep: bool = False
    room: str = ""
    source: KvSource | None = None


def kv_order(params: Json | None, config: EmulatorConfig) -> KvOrder | None:
    """Return what `kv_transfer_params` ask for; None if nothing, or if the engine has no connector.

    Raises:
        EngineError: They are neither what a proxy sends for prefill nor what a prefill engine answers. A real
            engine logs that and computes the prompt again, which no test would notice.
    """
    if not params or not config.role.moves_kv:
        return None
    if params.get("do_remote_decode"):
        if params.get("do_remote_prefill"):
            raise _broken("do_remote_decode and do_remote_prefill exclude each other")
        return KvOrder(keep=True)
    if not params.get("do_remote_prefill"):
        raise _broken("neither do_remote_decode nor do_remote_prefill is true")
    _check_blocks(params.get("remote_block_ids"))
    return KvOrder(
        source=KvSource(
            host=_field(params, "remote_host", str),
            port=_field(params, "remote_port", int),
            engine_id=_field(params, "remote_engine_id", str),
            request_id=_field(params, "remote_request_id", str),
            tokens=_field(params, "remote_num_tokens", int),
        )
    )


def kv_params(source: KvSource, block_ids: list[int]) -> Json:
    """Return the parameters with which a decode engine finds a KV cache, as vLLM 0.32 has them."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [list(block_ids)],
        "remote_engine_id": source.engine_id,
        "remote_request_id": source.request_id,
        "remote_host": source.host,
        "remote_port": source.port,
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": source.tokens,
        "remote_blocks_expiry_time": None,
        "transfer_mode": "pull",
        "remote_prefill_cached_tokens": 0,
    }


def _field(params: Json, name: str, kind: type) -> Any:
    value = params.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise _broken(f"{name} is {value!r}")
    return value


def _check_blocks(ids: object) -> None:
    groups = ids if isinstance(ids, list) else [None]
    if not groups or not all(
        isinstance(group, list) and all(type(i) is int for i in group) for group in groups
    ):
        raise _broken("remote_block_ids are no lists of block ids")


def _broken(what: str) -> Exception:
    return wrong_value(
        f"Contract: kv_transfer_params must be passed on as they were given: {what}.", "kv_transfer_params"
    )
