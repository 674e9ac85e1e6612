"""What vLLM's servers are started with on this machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from localengine.servers import LocalEngines, ServerCommand
from orchestrator.policy import load_policy
from stages.types import Stage

POLICY = load_policy(Path(__file__).parents[2] / "policies" / "vllm-tiny.yaml")


@pytest.fixture
def engines(tmp_path):
    return LocalEngines(python=Path("python"), policy=POLICY, embeddings=tmp_path)


def flag(server: ServerCommand, name: str):
    """Return the JSON value of a flag, None if it is not given."""
    given = [part for part in server.command if part.startswith(f"--{name}=")]
    return json.loads(given[-1].split("=", 1)[1]) if given else None


def test_encode_produces_embeddings_that_prefill_consumes(engines, tmp_path):
    roles = {stage: flag(engines.stage(stage), "ec-transfer-config") for stage in Stage}
    assert roles[Stage.ENCODE]["ec_role"] == "ec_producer"
    assert roles[Stage.PREFILL]["ec_role"] == "ec_consumer"
    assert roles[Stage.DECODE] is None
    folders = {roles[stage]["ec_connector_extra_config"]["shared_storage_path"] for stage in list(Stage)[:2]}
    assert folders == {str(tmp_path)}


def test_prefill_and_decode_move_the_kv_cache_and_the_rest_does_not(engines):
    moved = {stage: flag(engines.stage(stage), "kv-transfer-config") for stage in Stage}
    assert moved[Stage.ENCODE] is None
    assert moved[Stage.PREFILL] == moved[Stage.DECODE]
    assert moved[Stage.DECODE]["kv_connector"] == "NixlConnector"
    assert flag(engines.whole(), "kv-transfer-config") is None


def test_servers_have_ports_of_their_own(engines):
    servers = [engines.stage(stage) for stage in Stage for _ in range(2)]
    ports = {server.environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] for server in servers}
    assert len({server.url for server in servers}) == len(ports) == len(servers)


def test_the_policys_flags_come_last(engines):
    """vLLM takes the last of a flag that is given twice."""
    flags = POLICY.stages.prefill.flags
    assert tuple(engines.stage(Stage.PREFILL).command[-len(flags) :]) == flags


def test_only_a_model_in_a_folder_is_kept_from_the_network(engines, tmp_path):
    assert "HF_HUB_OFFLINE" not in engines.stage(Stage.DECODE).environment
    local = replace(POLICY, model=replace(POLICY.model, weights=str(tmp_path)))
    assert replace(engines, policy=local).stage(Stage.DECODE).environment["HF_HUB_OFFLINE"] == "1"
