"""How the gateway handles KV caches follows the policy file in force and the profile that it names."""

from pathlib import Path

import pytest

from orchestrator.control_policy import load_control_policy
from orchestrator.core.kv import KvSizes
from orchestrator.kv_rules import CurrentKvRules, KvRules
from orchestrator.policy import load_policy
from orchestrator.profiles import find_profile

POLICY = """\
apiVersion: tercet/v1
service: vl
model: {name: %s, kappa: %d}
stages:
  encode:  {engine: vllm, hardware: [l40s], budget_s: 0.6}
  prefill: {engine: vllm, hardware: [a100], tp: 4}
  decode:  {engine: vllm, hardware: [h100], tp: 4}
"""
THREE = "topology: {levels: [topology.kubernetes.io/zone, example.com/block, example.com/rack]}\n"
LLAMA = find_profile("llama-3.2-11b-vision")


@pytest.fixture
def write(tmp_path: Path):
    def write(model: str, kappa: int, more: str = "") -> Path:
        (tmp_path / "p.yaml").write_text(POLICY % (model, kappa) + more)
        return tmp_path / "p.yaml"

    return write


def rules(path: Path) -> KvRules:
    return CurrentKvRules(path, token_bytes=100).of(load_policy(path))


@pytest.mark.parametrize(
    ("model", "kappa", "sizes"),
    [
        pytest.param("internvl-26b", 1, KvSizes(token_bytes=100), id="decoder-only"),
        pytest.param(
            "llama-3.2-11b-vision",
            0,
            KvSizes(token_bytes=100, crossed_bytes=LLAMA.image_kv_bytes, crossed_tokens=LLAMA.image_tokens),
            id="cross-attention",
        ),
        pytest.param(
            "gpt", 0, KvSizes(token_bytes=100, crossed_bytes=100, crossed_tokens=1), id="no-profile"
        ),
    ],
)
def test_sizes_are_the_models(write, model, kappa, sizes):
    """What nobody has profiled is taken to fill every layer."""
    assert rules(write(model, kappa)) == KvRules(sizes=sizes)


@pytest.mark.parametrize(
    ("model", "slo", "level"),
    [
        pytest.param("internvl-26b", "", 2, id="by-bytes"),
        pytest.param("internvl-26b", "slo: {ttft_s: 60}\n", 0, id="bytes-have-time"),
        pytest.param("gpt", "slo: {ttft_s: 60}\n", 3, id="no-profile"),
    ],
)
def test_the_gateway_routes_by_the_level_that_control_places_by(write, model, slo, level):
    """Three levels, of which the KV cache needs two; a gateway works it out anew when the file is edited."""
    path = write(model, 1, THREE + slo)
    current = CurrentKvRules(path, token_bytes=100)
    assert current.of(load_policy(path)).decode_level == level
    if model != "gpt":
        assert load_control_policy(path).edges.prefill_decode == level
    write(model, 1, "topology: {levels: []}\n")
    assert current.of(load_policy(path)).decode_level == 0
