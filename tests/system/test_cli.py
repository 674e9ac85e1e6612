"""The command line against real systems: keys, exit codes, and what is left when it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import openai
import psutil
import pytest

from stages.blobs import default_dir
from stages.free_ports import free_port
from stages.front import ModelUnavailable
from tests.system.harness import ROOT, System, digit_png, digit_question, until
from tests.system.kit import access_line, status, tercet, tercet_process

KEYS = """
- {name: plain, key: plain-key-0123456789}
- {name: urgent, key: urgent-key-0123456789, max_priority: 50}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with API keys, on every address of the machine."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.yaml").write_text(KEYS)
    with System(folder, options=("--api-keys", str(folder / "keys.yaml"))) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic plain-key-0123456789"},
        {"authorization": "plain-key-0123456789"},
        {"authorization": "Bearer"},
    ],
)
def test_without_a_known_key_every_api_route_is_a_401(guarded: System, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=guarded.url, headers=headers, trust_env=False, verify=False) as client:
        for response in (client.get("/v1/models"), client.post("/v1/chat/completions", content=b"{")):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"


def test_health_and_ready_need_no_key(guarded: System) -> None:
    assert httpx.get(f"{guarded.url}/health", trust_env=False, verify=False).status_code == 200
    assert httpx.get(f"{guarded.url}/ready", trust_env=False, verify=False).status_code == 200


def test_the_official_client_gets_in_with_its_key(guarded: System) -> None:
    with httpx.Client(trust_env=False, verify=False) as http:
        client = openai.OpenAI(
            base_url=f"{guarded.url}/v1", api_key="plain-key-0123456789", http_client=http, max_retries=0
        )
        assert client.models.list().data[0].id == "tiny"
        assert client.chat.completions.create(**digit_question(1)).choices[0].message.content


@pytest.mark.parametrize(
    ("key", "asked", "given"),
    [("plain", 100, 0), ("plain", -7, -7), ("urgent", 100, 50), ("urgent", 20, 20)],
)
def test_a_key_caps_the_priority(guarded: System, key: str, asked: int, given: int) -> None:
    name = f"cap-{key}-{asked}"
    headers = {
        "authorization": f"Bearer {key}-key-0123456789",
        "x-tercet-priority": str(asked),
        "x-request-id": name,
    }
    assert guarded.post(digit_question(1), headers=headers).status_code == 200
    access = until("its line", lambda: access_line(guarded, name))
    assert (access["priority"], access["key"]) == (given, key)


def test_keys_are_never_logged(guarded: System) -> None:
    assert "key-0123456789" not in guarded.logs() + guarded.output.read_text()


def test_ask_sends_its_key_from_the_environment_and_says_when_it_is_missing(guarded: System) -> None:
    key = "plain-key-0123456789"
    asked = tercet("ask", "what digit is shown ?", "--url", guarded.url, TERCET_API_KEY=key)
    assert (asked.code, asked.stderr) == (0, "")
    refused = tercet("ask", "what digit is shown ?", "--url", guarded.url)
    assert refused.code == 1
    assert "TERCET_API_KEY" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture(scope="module")
def killed(guarded: System) -> System:
    """The same, whose supervisor was killed."""
    pids = [process["pid"] for process in guarded.supervisor()["processes"]]
    assert len(pids) == 5
    guarded.process.kill()
    guarded.process.wait()
    until("all of them ended", lambda: not [pid for pid in pids if alive(pid)], 10.0)
    return guarded


def test_a_killed_supervisor_leaves_no_orphan(killed: System) -> None:
    gone = tercet("status", "--state", str(killed.state))
    assert gone.code == 1
    assert "tercet up" in gone.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_file_but_the_state_folder(
    killed: System, number: signal.Signals
) -> None:
    """Also in the midst of requests, and after a start elsewhere on what a killed supervisor left.

    A terminal that is closed ends it in the same way.
    """
    with restarted(killed) as up:
        pids = [process["pid"] for process in killed.supervisor()["processes"]]
        runtime = Path(killed.supervisor()["redis_url"].removeprefix("unix://")).parent
        blobs = default_dir(str(killed.port))
        assert [row["state"] for row in status(killed)["replicas"]] == ["running"] * 3
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(killed.post, digit_question(n)) for n in range(24)]
            until("the first is answered", lambda: any(each.done() for each in asked))
            up.send_signal(number)
        assert up.wait(30) == 0
    assert all(each.exception() or each.result().status_code in (200, 503) for each in asked)
    assert asked[0].result().status_code == 200
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not runtime.exists()
    assert not blobs.exists()
    assert not list(Path(tempfile.gettempdir()).glob(f"tercet*{killed.port}*"))
    assert not list(blobs.parent.glob(f"tercet*{killed.port}*"))


@contextmanager
def restarted(system: System) -> Iterator[subprocess.Popen[str]]:
    """Start it again, from a folder whose packages are named like ours."""
    elsewhere = system.folder / "elsewhere"
    for name in ("orchestrator", "workers"):
        (elsewhere / name).mkdir(parents=True, exist_ok=True)
        (elsewhere / name / "__init__.py").write_text("raise SystemExit('not the one that was meant')")
    command = [sys.executable, "-P", "-m", "cli", "up", "--port", str(system.port), "--metrics-port", "0"]
    command += ["--state", str(system.state)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout
        assert up.stdout.readline() == f"ready {system.url}\n"
        yield up


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ask_prints_the_answer(system: System, tmp_path: Path) -> None:
    image = tmp_path / "digit.png"
    image.write_bytes(digit_png(1)[0])
    question = ("ask", "what digit is shown ?", "--image", str(image), "--url", system.url)
    plain, as_json = tercet_process(*question), tercet(*question, "--json")
    assert (plain.code, plain.stderr) == (0, "")
    answer = json.loads(as_json.stdout)
    assert plain.stdout == answer["choices"][0]["message"]["content"] + "\n"
    assert answer["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["what zebra is shown ?"], 1, "tercet models vocab tiny"),
        (
            ["what ?", "--image", "{tmp}/none.png"],
            2,
            "none.png: No such file or directory; --image takes a PNG",
        ),
        (["what ?", "--image", "{tmp}"], 2, "Is a directory; --image takes a PNG"),
        (["what digit is shown ?", "--image", "{tmp}/text.txt"], 1, "image"),
        (["what ?", "--model", "gpt-9"], 1, "tiny"),
    ],
)
def test_ask_says_what_is_wrong_in_one_line(
    system: System, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "text.txt").write_text("no image at all")
    given = [part.replace("{tmp}", str(tmp_path)) for part in arguments]
    done = tercet("ask", *given, "--url", system.url)
    assert (done.code, done.stdout.strip()) == (code, "")
    assert told in done.stderr
    assert done.stderr.startswith("tercet: ")
    assert done.stderr.count("\n") == 1


def test_ask_names_the_command_that_starts_a_gateway() -> None:
    done = tercet("ask", "what ?", "--port", str(free_port()))
    assert done.code == 1
    assert "tercet up" in done.stderr


def test_ask_says_that_what_answers_is_no_gateway(system: System) -> None:
    """Such as the metrics, which have a port of their own."""
    metrics_port = system.options[system.options.index("--metrics-port") + 1]
    for options in (), ("--model", "tiny"), ("--model", "tiny", "--json"):
        done = tercet("ask", "what ?", "--port", metrics_port, *options)
        assert done.code == 1
        assert "is no gateway; `tercet up` says where its is" in done.stderr


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        ("127.0.0.1:8080", 2, "give --url like http://127.0.0.1:8080"),
        ("http://127.0.0.1:none", 2, "give --url like http://127.0.0.1:8080"),
        ("{tls}", 1, "try http://"),
    ],
)
def test_ask_says_what_is_wrong_with_an_address(system: System, url: str, code: int, told: str) -> None:
    done = tercet("ask", "what ?", "--url", url.replace("{tls}", system.url.replace("http:", "https:")))
    assert done.code == code
    assert told in done.stderr


def test_ask_tells_a_silent_gateway_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.ask.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = tercet("ask", "what ?", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert done.code == 1
    assert "said nothing for 0.2 s" in done.stderr


def test_status_draws_a_table_that_fits_a_terminal(system: System) -> None:
    """In 80 columns each process has its name, pid and state in full."""
    done = tercet("status", "--state", str(system.state), COLUMNS="80")
    assert done.code == 0
    lines = done.stdout.splitlines()
    for process in system.supervisor()["processes"]:
        assert any(line.split()[:3] == [process["name"], str(process["pid"]), "running"] for line in lines)
    assert "waiting in gateway-0: 0 for encode, 0 for prefill, 0 for decode" in lines
    assert "…" not in done.stdout


def test_status_names_the_ports_of_systems_that_run(tmp_path: Path) -> None:
    """Not those of systems that ran."""
    for port, pid in (("18080", os.getpid()), ("18090", 2**22 + 1)):
        folder = tmp_path / "tercet" / port
        folder.mkdir(parents=True)
        (folder / "supervisor.json").write_text(json.dumps({"pid": pid}))
    asked = tercet("status", "--port", "9", XDG_STATE_HOME=str(tmp_path))
    assert asked.code == 1
    assert asked.stderr.endswith("; start it with `tercet up`, or look at what runs: --port 18080\n")


def test_status_as_json_has_what_scripts_need(system: System) -> None:
    row = status(system)["replicas"][0]
    wanted = (
        "id",
        "stage",
        "pid",
        "state",
        "restarts",
        "queue_depth",
        "in_flight",
        "tokens_per_s",
        "cache_hit_rate",
    )
    assert set(wanted) <= set(row)


def test_status_watched_as_json_is_a_line_each_second(system: System) -> None:
    command = [sys.executable, "-m", "cli", "status", "--watch", "--json", "--state", str(system.state)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(10), watching.stdout.read()) == (0, "")
    assert [len(line["replicas"]) for line in lines] == [3, 3]


def test_the_vocabulary_command_lists_the_words(system: System) -> None:
    done = tercet("models", "vocab", "tiny")
    assert done.code == 0
    assert {"digit", "what", "?"} <= set(done.stdout.split())
    assert tercet("models", "vocab", "none").code == 2


def test_a_model_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> NoReturn:
        raise ModelUnavailable("model big needs the package big-weights: run `make big`")

    monkeypatch.setattr("cli.models.MODELS", {"big": None})
    monkeypatch.setattr("cli.models.front", lambda _: missing())
    done = tercet("models", "vocab", "big")
    assert (done.code, done.stderr) == (
        1,
        "tercet: model big needs the package big-weights: run `make big`\n",
    )


REFUSED_STARTS = {
    "another host without keys": (["--host", "0.0.0.0"], "--api-keys"),
    "an unknown model": (["--model", "gpt-9"], "tiny"),
    "no policy file": (["--policy", "{tmp}/none.yaml"], "no policy file {tmp}/none.yaml"),
    "replicas without a count": (["--replicas", "encode"], "STAGE=COUNT"),
    "replicas of an unknown stage": (["--replicas", "embed=2"], "encode, prefill, decode"),
    "no replicas": (["--replicas", "decode=0"], "STAGE=COUNT"),
    "engines that run elsewhere": (
        ["--policy", "policies/internvl-26b.yaml"],
        "tercet up --model tiny",
    ),
    "model and policy": (["--model", "tiny", "--policy", "policies/tiny.yaml"], "exclude each other"),
    "no keys file": (["--api-keys", "{tmp}/none.yaml"], "none.yaml"),
    "a keys file without keys": (["--api-keys", "{tmp}/empty.yaml"], "empty.yaml"),
    "a host of others": (
        ["--host", "192.0.2.1", "--api-keys", "{tmp}/keys.yaml"],
        "choose another with --host",
    ),
    "a host without an address": (["--host", "none.invalid", "--api-keys", "{tmp}/keys.yaml"], "--host"),
    "a short key": (["--api-keys", "{tmp}/short.yaml"], "16 characters"),
    "a broken policy": (["--policy", "{tmp}/broken.yaml"], "did you mean `model`"),
    "a taken port": (["--port", "{port}"], "--port"),
}


@pytest.mark.parametrize("what", REFUSED_STARTS)
def test_up_refuses_what_cannot_work_before_it_starts_anything(tmp_path: Path, what: str) -> None:
    """In a line or two that name the next step, with exit code 2."""
    (tmp_path / "empty.yaml").write_text("[]")
    (tmp_path / "keys.yaml").write_text(KEYS)
    (tmp_path / "short.yaml").write_text("- {name: a, key: short}")
    text = (ROOT / "policies" / "tiny.yaml").read_text()
    (tmp_path / "broken.yaml").write_text(text.replace("model:", "modle:"))
    arguments, told = REFUSED_STARTS[what]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = [part.replace("{tmp}", str(tmp_path)).replace("{port}", port) for part in arguments]
        done = tercet("up", *given, "--state", str(tmp_path / "state"))
    assert done.code == 2, done.stdout + done.stderr
    assert told.replace("{tmp}", str(tmp_path)) in done.stderr
    assert done.stderr.startswith("tercet: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "supervisor.json").exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = tercet_process("up", "--port", str(free_port()), "--state", str(tmp_path / "file" / "state"))
    assert done.code == 2
    assert done.stderr.endswith("Not a directory; choose --state\n")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_second_system_on_the_same_state_is_refused(system: System) -> None:
    done = tercet_process(
        "up", "--port", str(free_port()), "--metrics-port", "0", "--state", str(system.state)
    )
    assert done.code == 2
    assert "another `tercet up`" in done.stderr
