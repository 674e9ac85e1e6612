"""How an SGLang server changes between prefill and decode, as SGLang 0.5.23 does it (`/pd_role_switch`).

Its weights and KV cache stay. It has to be idle, for what it has in hand is of its old role, and it does not
wait for that: whoever asks has to.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stages.emulator.config import Role
from stages.emulator.engine import Engine

_GRAPH_BATCHES = (1, 2, 4, 8)
_GRAPHS_GB = 0.5


class SwitchBody(msgspec.Struct, kw_only=True):
    """Body of /pd_role_switch.

    Attributes:
        decode_cuda_graph_memory_gb: What decode's graphs take, as a server that has them says. One that was
            started to prefill has none, and captures them when it first decodes.
        prepare_only: Say whether it could be done.
    """

    new_role: str = ""
    decode_cuda_graph_bs: list[int] | None = None
    decode_cuda_graph_memory_gb: float | None = None
    prepare_only: bool = False


class RoleSwitch:
    """The role of one server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._started_as = _mode(engine.config.role)
        self._graphs = list(_GRAPH_BATCHES) if engine.config.role is Role.DECODE else []

    def facts(self) -> dict[str, Any]:
        """Return what /server_info says: arguments are those of its start, state is as it is now."""
        state = {
            "disaggregation_mode": _mode(self._engine.config.role),
            "decode_cuda_graph_bs": self._graphs,
            "decode_cuda_graph_memory_gb": _GRAPHS_GB if self._graphs else 0.0,
        }
        return {
            "disaggregation_mode": self._started_as,
            "enable_pd_role_switch": self._engine.config.role_switch,
            "internal_states": [state],
        }

    async def switch(self, request: Request) -> Response:
        """Answer a request to change roles; 400 if it is not done."""
        try:
            asked = msgspec.json.decode(await request.body(), type=SwitchBody)
        except msgspec.DecodeError as error:
            return _answer({"success": False, "message": str(error), "safe_to_restore": True})
        old = _mode(self._engine.config.role)
        told = {"old_role": old, "new_role": asked.new_role}
        if refusal := self._refusal(asked):
            return _answer(told | {"success": False, "message": refusal, "safe_to_restore": True})
        if asked.new_role == old:
            return _answer(told | {"success": True, "message": "already in target role"})
        if asked.prepare_only:
            return _answer(told | {"success": True, "message": "ready", "safe_to_restore": True})
        self._become(Role(asked.new_role), asked.decode_cuda_graph_bs)
        return _answer(told | {"success": True, "message": "ok"})

    def _refusal(self, asked: SwitchBody) -> str:
        """Return why it is not done, empty if it can be."""
        role = self._engine.config.role
        if not self._engine.config.role_switch:
            return "--enable-pd-role-switch is not set on this server"
        if asked.new_role not in (Role.PREFILL, Role.DECODE):
            return f"invalid new_role={asked.new_role!r}"
        if asked.new_role == role:
            return ""
        if not self._engine.idle:
            return "instance is not idle; drain all requests before switching"
        if asked.new_role == Role.DECODE and not self._graphs and asked.decode_cuda_graph_memory_gb is None:
            return "decode_cuda_graph_memory_gb is required before capturing decode graphs"
        return ""

    def _become(self, role: Role, batches: list[int] | None) -> None:
        if role is Role.DECODE and not self._graphs:
            self._graphs = batches or list(_GRAPH_BATCHES)
        self._engine.become(role)


def _mode(role: Role) -> str:
    return role.value if role.moves_kv else "null"


def _answer(told: dict[str, Any]) -> Response:
    body = {"message": "", "old_role": "", "new_role": "", "safe_to_restore": False} | told
    return Response(msgspec.json.encode(body), 200 if body["success"] else 400, media_type="application/json")
