"""What vLLM 0.33 says of embeddings and 0.32 does not, and that proxies pass it on whole."""

from collections.abc import Iterator
from typing import Any

import pytest

from stages.emulator.config import Role
from tests.fakes.emulator import Emulated, emulated_epd
from tests.stages.emulator.kit import chat, encoded, image, through_three

BODY = chat("compare", image(1), "and", image(2, uuid="u-2"))


@pytest.fixture(scope="module", params=["0.32.0", "0.33.0"])
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Role, Emulated]]:
    with emulated_epd(tmp_path_factory.mktemp("ec"), version=request.param) as engines:
        yield engines


def test_three_engines_say_what_one_says(engines: dict[Role, Emulated]) -> None:
    alone = engines[Role.AGGREGATED].chat(BODY).json()
    assert through_three(engines, BODY)["choices"] == alone["choices"]


def test_an_entry_says_where_the_embedding_is_from_0_33_on(engines: dict[Role, Emulated]) -> None:
    newer = engines[Role.ENCODE].http.get("/version").json()["version"] == "0.33.0"
    for entry in encoded(engines[Role.ENCODE], BODY).values():
        assert {"item_indices", "metadata"} <= entry.keys()
        assert ({"modality", "peer_host", "peer_port", "size_bytes", "shape"} <= entry.keys()) == newer


@pytest.mark.parametrize("cut", ["item_indices", "modality"])
def test_an_entry_that_was_cut_is_refused(engines: dict[Role, Emulated], cut: str) -> None:
    params: dict[str, Any] = encoded(engines[Role.ENCODE], BODY)
    known = [entry for entry in params.values() if entry.pop(cut, None) is not None]
    answer = engines[Role.PREFILL].chat(BODY | {"ec_transfer_params": params})
    assert (answer.status_code == 400 and f"has no {cut}" in answer.text) == bool(known)
