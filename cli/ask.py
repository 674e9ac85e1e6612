"""`tercet ask`: one question to a running system, answered as it streams."""

import base64
import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer

from cli.refuse import MISTAKEN, UNSERVED, refuse

TIMEOUT_S = 120.0
"""For the first byte, and between two; the server's own deadline is shorter by default."""


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be given more than once.")] = None,
    port: Annotated[int, typer.Option(help="Port of the gateway on this machine.", min=1, max=65535)] = 8080,
    url: Annotated[str | None, typer.Option(help="Where the gateway is, if elsewhere.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; the first that is served by default.")] = None,
    api_key: Annotated[str, typer.Option(envvar="TERCET_API_KEY", help="API key, if one is needed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Ask a question, about images or not, and print the answer as it comes."""
    url = url or f"http://127.0.0.1:{port}"
    message = _message(question, image or [])
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
            body = {"model": model or _first_model(client), "messages": [message]}
            if as_json:
                answer = _said(client.post("/v1/chat/completions", json=body))
                typer.echo(json.dumps(answer, indent=2))
            else:
                for piece in _stream(client, body | {"stream": True}):
                    typer.echo(piece, nl=False)
                typer.echo()
    except (httpx.TransportError, httpx.InvalidURL) as error:
        _explain(url, error)


def _explain(url: str, error: Exception) -> NoReturn:
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        refuse(f"{url} said nothing for {TIMEOUT_S:g} s; see `tercet status`", UNSERVED)
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        refuse(f"{url} is no address ({error}); give --url like http://127.0.0.1:8080", MISTAKEN)
    if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        refuse(f"{url} broke off ({error}); see `tercet status`", UNSERVED)
    if url.startswith("https:"):
        refuse(f"no TLS at {url} ({error}); `tercet up` speaks plain HTTP: try http://", UNSERVED)
    refuse(f"no gateway at {url} ({error}); start one with `tercet up`, or name its --port", UNSERVED)


def _first_model(client: httpx.Client) -> str:
    answer = client.get("/v1/models")
    try:
        return str(_said(answer)["data"][0]["id"])
    except (TypeError, LookupError):
        _no_gateway(answer)


def _message(question: str, images: list[Path]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
    for path in images:
        mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        data = base64.b64encode(_read(path)).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}})
    return {"role": "user", "content": parts}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        refuse(f"{path}: {error.strerror}; --image takes a PNG, JPEG, GIF, WebP or BMP file", MISTAKEN)


def _stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            _said(answer)
        for line in answer.iter_lines():
            event = line.removeprefix("data: ")
            if not line or event == "[DONE]":
                continue
            try:
                chunk = json.loads(event)
            except ValueError:
                _no_gateway(answer)
            if "error" in chunk:
                refuse(chunk["error"]["message"], UNSERVED)
            for choice in chunk["choices"]:
                yield choice["delta"].get("content") or ""


def _said(answer: httpx.Response) -> Any:
    """Return what the gateway answered, if it is one and has not refused."""
    if answer.status_code != 200:
        refuse(_refusal(answer), UNSERVED)
    try:
        return answer.json()
    except ValueError:
        _no_gateway(answer)


def _refusal(answer: httpx.Response) -> str:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, TypeError, LookupError):
        _no_gateway(answer)
    key = "; `tercet ask` takes it from --api-key or TERCET_API_KEY" if answer.status_code == 401 else ""
    return message + key


def _no_gateway(answer: httpx.Response) -> NoReturn:
    refuse(
        f"what answers at {answer.url} ({answer.status_code}) is no gateway; `tercet up` says where its is",
        UNSERVED,
    )
