"""`tercet up` in front of servers with SGLang's interface: fixtures of its contract, not SGLang itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cli.engines import engines_of
from orchestrator.policy import load_policy
from stages.adapters.server import EngineServer
from stages.adapters.sglang import SglangDecode
from stages.adapters.watch import ServerUnfit
from stages.blobs import BlobSettings, open_store
from stages.limits import EngineLimits
from stages.types import DecodeJob, Sampling
from tests.fakes.sglang_pair import MEETING, SglangPair, answer_to
from tests.stages.emulator.kit import chat, image
from tests.system.harness import ROOT, System
from tests.system.served import ask, said

POLICY = ROOT / "policies" / "examples" / "sglang-pd.yaml"
BODIES = [chat(f"question {n}", *[image(n)] * (n % 3), model="tiny") for n in range(16)]


@pytest.fixture(scope="module")
def pair() -> Iterator[SglangPair]:
    with SglangPair() as running:
        yield running


@pytest.fixture(scope="module")
def served(pair: SglangPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    addresses = ",".join(f"{stage}={url}" for stage, url in pair.urls.items())
    with System(tmp_path_factory.mktemp("sglang"), policy=POLICY, options=("--engines", addresses)) as system:
        yield system


def test_prefill_and_decode_are_sent_the_same_request_and_meet(served: System, pair: SglangPair) -> None:
    for bodies in pair.bodies.values():
        bodies.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: ask(served, body), BODIES))
    assert [answer.status_code for answer in found] == [200] * len(BODIES)
    met = {stage: {b["bootstrap_room"]: b for b in bodies} for stage, bodies in pair.bodies.items()}
    assert len(met["prefill"]) == len(BODIES)
    assert met["prefill"] == met["decode"]
    said_to = {"".join(answer_to(body["messages"])) for body in met["decode"].values()}
    assert {answer.json()["choices"][0]["message"]["content"] for answer in found} == said_to


def test_a_stream_is_passed_on(served: System, pair: SglangPair) -> None:
    stream = ask(served, BODIES[1] | {"stream": True})
    assert said(stream.text) == "".join(answer_to(pair.bodies["decode"][-1]["messages"]))
    assert stream.text.endswith("data: [DONE]\n\n")


@pytest.mark.slow
def test_a_prefill_that_fails_ends_with_an_error_and_hangs_nobody(served: System, pair: SglangPair) -> None:
    pair.broken = True
    try:
        answer = ask(served, BODIES[0], timeout_s=60.0)
    finally:
        pair.broken = False
    assert answer.status_code == 503
    assert ask(served, BODIES[0]).status_code == 200


def test_one_server_for_all_is_sent_no_meeting(pair: SglangPair, tmp_path: Path) -> None:
    job = DecodeJob(
        request_id="r",
        hop="decode",
        attempt=1,
        reply_to="g",
        model="tiny",
        deadline_unix_s=0.0,
        kv=None,
        sampling=Sampling(max_tokens=1),
    )
    blobs = open_store(BlobSettings(dir=tmp_path))
    server = EngineServer(kind="sglang", url=pair.urls["decode"], model="tiny")
    engine = SglangDecode(server, blobs, EngineLimits())
    body = engine.asked(job, chat("hello", image(1, uuid="x"), model="tiny"))
    assert not set(MEETING) & body.keys()
    assert (engine.load().batch_size, engine.load().total_kv_bytes) == (2, 0)
    engine.close()


def test_an_older_one_is_refused(pair: SglangPair, tmp_path: Path) -> None:
    pair.version = "0.5.9"
    server = EngineServer(kind="sglang", url=pair.urls["decode"], model="tiny")
    try:
        with pytest.raises(ServerUnfit, match=r"is SGLang 0\.5\.9; at least 0\.5\.23 is needed"):
            SglangDecode(server, open_store(BlobSettings(dir=tmp_path)), EngineLimits())
    finally:
        pair.version = "0.5.23"


def test_encoders_are_left_to_the_servers_that_call_them() -> None:
    policy = load_policy(POLICY)
    split = replace(policy, split=replace(policy.split, encode_from=0))
    with pytest.raises(ValueError, match=r"call their encoders themselves.*encode_from: null"):
        engines_of("encode=http://a:1,prefill=http://b:1,decode=http://c:1", split)
