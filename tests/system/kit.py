"""What several system tests ask of a running system."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from cli.main import app
from tests.system.harness import ROOT, System


def ask(client: openai.OpenAI, text: str, *urls: str, **options: Any) -> Any:
    """Ask with the official client."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content: Any = [{"type": "text", "text": text}, *images]
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], **options
    )


def metrics(system: System) -> dict[str, dict[str, float]]:
    """Samples by name, then by labels as they are written, such as `stage="encode"`."""
    port = system.options[system.options.index("--metrics-port") + 1]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, verify=False).text
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        found[family.name] = {}
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    code: int
    stdout: str
    stderr: str


def tercet(*arguments: str, **environment: str) -> Ran:
    """Run a command line to its end, in this process: it starts in no time."""
    result = CliRunner().invoke(app, arguments, env=environment)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def tercet_process(*arguments: str) -> Ran:
    """Run a command line to its end as a shell would."""
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return Ran(done.returncode, done.stdout, done.stderr)


def status(system: System) -> dict[str, Any]:
    """What `tercet status --json` says."""
    done = tercet("status", "--json", "--state", str(system.state))
    assert done.code == 0, done.stderr
    return dict(json.loads(done.stdout))


def log_lines(system: System) -> Iterator[dict[str, Any]]:
    """Lines of all JSON logs so far."""
    for line in system.logs().splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def access_line(system: System, name: str) -> dict[str, Any] | None:
    """The gateway's line about a request, once it is there."""
    lines = [e for e in log_lines(system) if e.get("x_request_id") == name and e["message"] == "request"]
    return lines[-1] if lines else None
