"""Having an SGLang server prefill instead of decode, or the reverse, while its weights stay where they are.

The server has to be started with `--enable-pd-role-switch`, and be idle. Source: SGLang 0.5.23,
`disaggregation/role_switch.py`.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any

import aiohttp
import msgspec

from stages.adapters.bodies import Json
from stages.adapters.calls import Calls
from stages.adapters.server import EngineServer
from stages.adapters.watch import ASK_S, ServerUnfit
from stages.engines import RoleRefused
from stages.types import Stage

log = logging.getLogger(__name__)

_SWITCH = "/pd_role_switch"
_SWITCH_S = 300.0
"""Ample: a server that decodes for the first time captures its graphs meanwhile."""
_IDLE_S = 30.0
"""Whoever has asked it for something has left by now, or was told to; what it aborts takes it a moment."""
_POLL_S = 0.25
_GRAPHS = ("decode_cuda_graph_bs", "decode_cuda_graph_memory_gb")


class _Told(msgspec.Struct):
    """What a server answers.

    Attributes:
        safe_to_restore: Whether it goes on in its old role, if it was not done.
    """

    success: bool = False
    message: str = ""
    safe_to_restore: bool = False


def take_role(calls: Calls, server: EngineServer, facts: Json, stage: Stage) -> None:
    """Have a server do a stage from now on, if it does another; waits until it is idle.

    Args:
        calls: To it.
        server: It; its peers say what the graphs of one that decodes take, which it wants to be told.
        facts: What its /server_info says.
        stage: Prefill or decode.

    Raises:
        ServerUnfit: It does another, and is not to be changed.
        RoleRefused: It does another, and was not changed.
    """
    if _role(facts) == stage:
        return
    if not server.switches_roles:
        raise ServerUnfit(f"{server.url} was not started with --disaggregation-mode {stage}")
    if not facts.get("enable_pd_role_switch"):
        raise RoleRefused(f"{server.url} does not {stage}, and has no --enable-pd-role-switch")
    started_s = time.monotonic()
    body = {"new_role": stage} | (_graphs(calls, server.peers) if stage is Stage.DECODE else {})
    while not (told := _asked(calls, body)).success:
        if not told.safe_to_restore or time.monotonic() - started_s > _IDLE_S:
            raise RoleRefused(f"{server.url} does not change to {stage}: {told.message}")
        time.sleep(_POLL_S)
    log.info("%s has changed to %s in %.1f s", server.url, stage, time.monotonic() - started_s)


def _role(facts: Json) -> object:
    """Return what a server does now; its arguments say what it was started to do."""
    state: Json = next(iter(facts.get("internal_states") or ()), {})
    return state.get("disaggregation_mode", facts.get("disaggregation_mode"))


def _asked(calls: Calls, body: Json) -> _Told:
    """Return what a server says to a change of its role."""
    try:
        answer = calls.wait(calls.ask("POST", _SWITCH, body, _SWITCH_S, or_refusal=True))
        return msgspec.json.decode(answer, type=_Told)
    except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
        return _Told(message=str(error) or "time-out")


def _graphs(calls: Calls, peers: Iterable[str]) -> Json:
    """Return what servers that decode say of their graphs; nothing if none can be asked."""
    found: Json = {}
    for url in peers:
        try:
            answer = calls.wait(calls.get(url + "/server_info", ASK_S))
            state = msgspec.json.decode(answer, type=dict[str, Any])["internal_states"][0]
            found = {name: state[name] for name in _GRAPHS}
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError, LookupError, TypeError) as error:
            log.warning("%s does not say what its graphs take: %s", url, error or "time-out")
        if found.get(_GRAPHS[0]):
            break
    return found
