"""Which engine servers `tercet up` takes, and what it says of others."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli.engines import engines_of, starts_engines
from orchestrator.policy import load_policy
from stages.types import Stage

POLICIES = Path(__file__).parents[2] / "policies"
VLLM, TINY = load_policy(POLICIES / "vllm-tiny.yaml"), load_policy(POLICIES / "tiny.yaml")


def test_a_stage_that_is_named_twice_has_two_replicas() -> None:
    text = "encode=http://a:1, prefill=http://b:2/,decode=http://c:3,decode=http://d:4"
    assert engines_of(text, VLLM) == {
        Stage.ENCODE: ("http://a:1",),
        Stage.PREFILL: ("http://b:2",),
        Stage.DECODE: ("http://c:3", "http://d:4"),
    }
    assert engines_of("", TINY) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("encode=http://a:1,prefill=http://b:1", "no server of the engine vllm for decode"),
        ("encode=a:1", "STAGE=http://HOST:PORT"),
        ("encode=http://a:1/v1", "STAGE=http://HOST:PORT"),
        ("embed=http://a:1", "encode, prefill, decode"),
    ],
)
def test_what_is_wrong_is_named(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        engines_of(text, VLLM)


def test_sglang_needs_encoders_unless_its_policy_leaves_encode_to_its_servers() -> None:
    examples = POLICIES / "examples"
    rest = "prefill=http://b:1,decode=http://c:1"
    with pytest.raises(ValueError, match="no server of the engine sglang for encode"):
        engines_of(rest, load_policy(examples / "sglang-epd.yaml"))
    assert Stage.ENCODE in engines_of(f"encode=http://a:1,{rest}", load_policy(examples / "sglang-epd.yaml"))
    assert Stage.ENCODE not in engines_of(rest, load_policy(examples / "sglang-pd.yaml"))


def test_built_in_engines_have_no_servers() -> None:
    with pytest.raises(ValueError, match="tiny is built in"):
        engines_of("encode=http://a:1", TINY)


def test_servers_are_started_here_only_if_none_is_named_and_a_processor_will_do() -> None:
    on_gpu = replace(VLLM.stages, decode=replace(VLLM.stages.decode, hardware=("h100-80gb",)))
    assert starts_engines("", VLLM)
    assert not starts_engines("encode=http://a:1", VLLM)
    assert not starts_engines("", TINY)
    assert not starts_engines("", replace(VLLM, stages=on_gpu))


def test_servers_that_need_other_hardware_have_to_be_named() -> None:
    with pytest.raises(ValueError, match="no server of the engine vllm for encode, prefill, decode"):
        engines_of("", VLLM)
