"""What is asked of engine servers behind `tercet up`: the cases that three servers answer as one does."""

import json
from typing import Any

import httpx

from tests.stages.emulator.kit import chat, image
from tests.system.harness import System

CHAT = "/v1/chat/completions"
CASES = {
    "text": chat("hello there", model="tiny"),
    "one image": chat("what is this", image(1), model="tiny"),
    "another image": chat("what is this", image(90), model="tiny"),
    "two images": chat("compare", image(2), image(3), model="tiny"),
    "an image twice": chat("same", image(4), image(4), model="tiny"),
    "a long prompt": chat("describe " * 60, image(5), model="tiny"),
}


def ask(system: System, body: dict[str, Any], timeout_s: float = 30.0) -> httpx.Response:
    """Send a chat through Tercet."""
    return httpx.post(system.url + CHAT, json=body, timeout=timeout_s, trust_env=False, verify=False)


def events(stream: str) -> list[dict[str, Any]]:
    """Return the events of a stream, in order."""
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]


def said(stream: str) -> str:
    """Return the text of a stream."""
    return "".join(b["choices"][0]["delta"].get("content") or "" for b in events(stream) if b["choices"])
