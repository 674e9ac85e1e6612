"""`tercet`: each command starts with what it needs."""

import json
import subprocess
import sys

import pytest

HEAVY = {"celery", "httpx", "kubernetes", "kombu", "prometheus_client", "redis", "starlette", "uvicorn"}
IMPORTED = """
import json, sys
from cli.main import app
try:
    app()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command", ["simulate", "compare", "tune", "explain", "advise", "policy", "experiments"]
)
def test_what_only_simulates_starts_without_clients_and_servers(command: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED, command, "--help"], capture_output=True, text=True, check=True
    )
    assert command in ran.stdout
    assert not HEAVY & set(json.loads(ran.stderr))


def test_a_misspelt_command_is_told_the_nearest() -> None:
    ran = subprocess.run([sys.executable, "-m", "cli", "simulat"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "simulate" in ran.stderr
