"""A lost connection ends our worker if our own server has gone, and not if it was another's."""

from collections.abc import Iterator

import pytest

from stages.adapters.calls import CHAT, Calls, EngineGone
from stages.adapters.server import EngineServer
from stages.engines import EngineRefused
from stages.free_ports import free_port


@pytest.fixture
def calls() -> Iterator[Calls]:
    """To a server that answers nothing, not even whether it is healthy."""
    asking = Calls(EngineServer(url=f"http://127.0.0.1:{free_port()}", model="m"))
    yield asking
    asking.close()


def test_our_own_server_has_gone_if_it_is_not_healthy_either(calls: Calls) -> None:
    with pytest.raises(EngineGone):
        calls.wait(calls.answer(CHAT, b"{}", "r"))


def test_another_server_that_has_gone_is_named_and_ours_not_asked(calls: Calls) -> None:
    other = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineRefused, match=other):
        calls.wait(calls.answer(other + CHAT, b"{}", "r"))
