"""One running system that most tests share; those that change it start their own."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from stages.free_ports import free_port
from tests.system.harness import System


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """`tercet up` as it comes, with /metrics on a free port."""
    metrics = ("--metrics-port", str(free_port()))
    with System(tmp_path_factory.mktemp("shared"), options=metrics) as running:
        yield running


@pytest.fixture(scope="session")
def client(system: System) -> Iterator[openai.OpenAI]:
    """The official client, pointed at the shared system."""
    with httpx.Client(trust_env=False, verify=False) as http:
        yield openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", http_client=http, max_retries=0)
