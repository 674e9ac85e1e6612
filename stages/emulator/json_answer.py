"""Answers in JSON."""

from typing import Any

import msgspec
from starlette.responses import Response


def json_answer(value: Any, status: int = 200) -> Response:
    """Return a value as an HTTP response."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
