"""vLLM three times behind `tercet up`, and once alone to compare with."""

from collections.abc import Iterator

import pytest

from localengine.servers import local_engines
from orchestrator.policy import load_policy
from tests.system.harness import ROOT, System, until
from tests.vllm.kit import START_S, Server, running

POLICY = ROOT / "policies" / "vllm-tiny.yaml"


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server that does all three stages; it may still be starting."""
    folder = tmp_path_factory.mktemp("alone")
    engines = local_engines(load_policy(POLICY), folder, print)
    with running(engines.whole(), folder / "log") as server:
        yield server


@pytest.fixture(scope="session")
def served(alone: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """`tercet up` as a person types it, and the server to compare with up as well."""
    folder = tmp_path_factory.mktemp("served")
    policy = folder / "patient.yaml"  # a server that was killed takes its time to come back
    policy.write_text(POLICY.read_text().replace("{queue_s: 10}", "{queue_s: 10, deadline_s: 300}"))
    with System(folder, policy=policy, start_s=START_S) as system:
        until("the server alone is up", alone.healthy, START_S)
        yield system
