"""`tercet profile measure` on real processes: what it writes can be shown, and simulated with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.paths import POLICIES

pytestmark = pytest.mark.slow


def tercet(*args: str) -> str:
    command = [sys.executable, "-P", "-m", "cli", *args]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_service_is_measured_and_simulated(tmp_path: Path) -> None:
    """One short round: figures are rough, but all are there, and a policy that names the file runs on it."""
    profile = tmp_path / "measured.yaml"
    keys = json.loads(
        tercet("profile", "measure", "--output", str(profile), "--rounds", "1", "--seconds", "0.4", "--json")
    )
    assert keys["model"] == "tiny"
    assert all(low <= taken <= high for low, taken, high in keys["host"]["worker_hop_s"].values())
    assert 0.1 < keys["cold_start"]["encode"]["load_s"][1] < 30.0
    assert json.loads(tercet("profile", "show", str(profile), "--json"))["classes"][0]["hardware"] == "cpu"

    policy, trace = tmp_path / "policy.yaml", tmp_path / "trace.csv"
    shutil.copy(POLICIES / "tiny.yaml", policy)
    text = policy.read_text().replace("name: tiny, kappa: 1", "name: tiny, kappa: 1, profile: measured.yaml")
    policy.write_text(text)
    rows = [f"2026-01-01T00:00:{i:02d}.000Z,1,40,9" for i in range(40)]
    trace.write_text("\n".join(["TIMESTAMP,NumImages,ContextTokens,GeneratedTokens", *rows]) + "\n")
    summary = json.loads(tercet("simulate", "--policy", str(policy), "--trace", str(trace), "--json"))
    assert summary["endings"]["answered"] == 40
    assert 0.001 < summary["groups"]["all"]["ttft_s"]["50"] < 0.2
