"""`tercet emulate`: what it refuses, and the process that it becomes."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.stages.emulator.kit import chat


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hardware", "h100x4"], "name one with --profile"),
        (["--profile", "no-model"], "there is no profile of no-model"),
        (["--profile", "internvl-26b", "--hardware", "h100x3"], "has no times of decode on h100x3"),
        (["--profile", "internvl-26b", "--link", "string"], "there is no link string"),
        (["--max-model-len", "1000000"], "hold no request of 1000000 tokens"),
        (["--language-only"], "only SGLang's language servers call encoders"),
        (["--speed-up", "0"], "is none"),
        (["--limit", "smells=1"], "is not MODALITY=COUNT"),
        (["--fault", "slow=-1"], "slow must be above 0"),
        (["--fault", "slwo=2"], "slwo"),
        (["--fault", "slow=much"], "slow"),
    ],
)
def test_refusals(options, words):
    result = CliRunner().invoke(app, ["emulate", "--stage", "decode", *options])
    assert result.exit_code == 2
    assert words in result.output


@contextmanager
def process(*options):
    command = [sys.executable, "-m", "cli", "emulate", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            yield child, json.loads(child.stdout.readline())
        finally:
            child.kill()


def test_a_server_that_calls_encoders_says_where_its_list_is():
    options = ["--engine", "sglang", "--stage", "prefill", "--language-only"]
    with process(*options) as (_, told):
        url = told["url"].rpartition(":")[0] + f":{told['encoder_port']}/list_encoder_urls"
        assert httpx.get(url, trust_env=False).json() == {"encoder_urls": []}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_in_a_profiles_time_until_it_is_told_to_stop(number, tmp_path):
    options = [
        "--stage",
        "aggregated",
        "--profile",
        "internvl-26b",
        "--hardware",
        "a100x4",
        "--fault",
        "slow=2",
    ]
    with process(*options, "--ec-dir", str(tmp_path), "--speed-up", "4") as (child, said):
        assert (said["engine"], said["stage"], said["model"]) == ("vllm", "aggregated", "emulated")
        with httpx.Client(base_url=said["url"], timeout=10) as client:
            answer = client.post("/v1/chat/completions", json=chat("hello", max_tokens=40)).json()
            assert answer["usage"]["completion_tokens"] == 40
            # 39 steps of 10 ms in the profile, twice as slow, in a quarter of the time.
            metrics = client.get("/metrics").text
            decode_s = next(
                float(line.split()[-1])
                for line in metrics.splitlines()
                if line.startswith("vllm:request_decode_time_seconds_sum")
            )
            assert decode_s > 0.7 * 39 * 0.01 * 2 / 4
            assert client.get("/emulator/faults").json()["slow"] == 2.0
        child.send_signal(number)
        assert child.wait(10) == 0
        assert child.stderr and child.stderr.read() == ""


def test_an_address_in_use_is_said():
    with process("--stage", "encode") as (_, said):
        port = said["url"].rpartition(":")[2]
        command = [sys.executable, "-m", "cli", "emulate", "--stage", "encode", "--port", port]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert "cannot listen" in second.stderr and "choose another" in second.stderr
