"""`tercet ask`: one question to a running system, answered as it streams."""

import base64
import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer

TIMEOUT_S = 120.0
"""For the first byte, and between two; the server's own deadline is shorter by default."""


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be given more than once.")] = None,
    url: Annotated[str, typer.Option(help="Where the gateway is.")] = "http://127.0.0.1:8080",
    model: Annotated[str | None, typer.Option(help="Model; the first that is served by default.")] = None,
    api_key: Annotated[str, typer.Option(envvar="TERCET_API_KEY", help="API key, if one is needed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Ask a question, about images or not, and print the answer as it comes."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
            body = {"model": model or _first_model(client), "messages": [_message(question, image or [])]}
            if as_json:
                answer = client.post("/v1/chat/completions", json=body)
                _check(answer)
                typer.echo(json.dumps(answer.json(), indent=2))
            else:
                for piece in _stream(client, body | {"stream": True}):
                    typer.echo(piece, nl=False)
                typer.echo()
    except (httpx.ReadTimeout, httpx.WriteTimeout):
        _refuse(f"{url} said nothing for {TIMEOUT_S:g} s; see `tercet status`")
    except httpx.TransportError as error:
        _refuse(f"no gateway at {url} ({error}); start one with `tercet up`")
    except OSError as error:
        typer.echo(f"tercet: {error}", err=True)
        raise typer.Exit(2) from None


def _first_model(client: httpx.Client) -> str:
    answer = client.get("/v1/models")
    _check(answer)
    return str(answer.json()["data"][0]["id"])


def _message(question: str, images: list[Path]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
    for path in images:
        mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}})
    return {"role": "user", "content": parts}


def _stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
        _check(answer)
        for line in answer.iter_lines():
            event = line.removeprefix("data: ")
            if not line or event == "[DONE]":
                continue
            chunk = json.loads(event)
            if "error" in chunk:
                _refuse(chunk["error"]["message"])
            for choice in chunk["choices"]:
                yield choice["delta"].get("content") or ""


def _check(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError):
            message = f"{answer.url} answered {answer.status_code}"
        _refuse(message)


def _refuse(message: str) -> NoReturn:
    typer.echo(f"tercet: {message}", err=True)
    raise typer.Exit(1)
