"""Refusals as OpenAI's clients know them: a status and `{"error": {message, type, param, code}}`."""

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_SHOWN_CHARS = 80


class ApiError(Exception):
    """A request that ends in an error answer.

    Attributes:
        status: HTTP status, 400 to 599.
        message: For the person who wrote the request; says what to do next.
        type: Class of the error; OpenAI's clients choose their exception by the status.
        code: Stable name for programs, or None.
        param: Path of the offending field, such as `messages[0].content[1].image_url.url`, or None.
        headers: Extra response headers, such as `retry-after`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = headers


def error_body(error: ApiError) -> bytes:
    """Return the JSON answer."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def shown(value: object) -> str:
    """Quote a client's value for a message: one line, about 80 characters at most."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value[:_SHOWN_CHARS] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def invalid_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request can never be served as it is."""
    return ApiError(400, message, type="invalid_request_error", code=code, param=param)


def unauthorized() -> ApiError:
    """401: no API key, or one that is not known."""
    message = "missing or unknown API key; send it as 'Authorization: Bearer KEY'"
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, message, type="authentication_error", code="invalid_api_key", headers=headers)


def not_found(path: str) -> ApiError:
    """404: no such route."""
    return ApiError(404, f"no route {shown(path)}", type="invalid_request_error", code="unknown_url")


def method_not_allowed(method: str, path: str, allowed: str) -> ApiError:
    """405: the route takes another method."""
    message = f"{shown(path)} takes {allowed}, not {shown(method)}"
    return ApiError(405, message, type="invalid_request_error", headers={"allow": allowed})


def model_not_found(model: str, known: Collection[str]) -> ApiError:
    """404: no deployed service has this model."""
    message = (
        f"the model {shown(model)} does not exist here; GET /v1/models lists: {', '.join(sorted(known))}"
    )
    return ApiError(404, message, type="invalid_request_error", code="model_not_found", param="model")


def body_too_large(limit_bytes: int) -> ApiError:
    """413: the body exceeds the policy's limit."""
    message = (
        f"the request body exceeds the limit of {limit_bytes:,} bytes (policy: admission.limits.body_mb)"
    )
    return ApiError(413, message, type="invalid_request_error", code="request_too_large")


def rate_limited(message: str, retry_after_s: float) -> ApiError:
    """429: the backlog is beyond its bound; `retry_after_s` is when it should be within it again."""
    headers = _retry_after(retry_after_s)
    return ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)


def internal_error(request_id: str) -> ApiError:
    """500: our fault. Says nothing of its cause; the log has it under the request id."""
    message = f"internal error; the gateway's log has the cause under request id {shown(request_id)}"
    return ApiError(500, message, type="server_error", code="internal_error")


def poison_request(request_id: str) -> ApiError:
    """500: the request alone made engines crash, twice."""
    message = (
        f"engines crashed on this request alone, twice; it is not retried (request id {shown(request_id)})"
    )
    return ApiError(500, message, type="server_error", code="poison_request")


def diverged(message: str) -> ApiError:
    """500: an answer was lost on its way and cannot be continued."""
    told = f"the answer was lost with a replica and cannot be continued: {message}"
    return ApiError(500, told, type="server_error", code="answer_lost")


def unavailable(message: str, retry_after_s: float, *, code: str = "service_unavailable") -> ApiError:
    """503: a resource is missing for now."""
    return ApiError(503, message, type="server_error", code=code, headers=_retry_after(retry_after_s))


def timed_out(message: str) -> ApiError:
    """504: the deadline passed before the answer was complete."""
    return ApiError(504, message, type="timeout_error", code="deadline_exceeded")


def _retry_after(seconds: float) -> dict[str, str]:
    # RFC 9110 wants whole seconds; 0 would invite an immediate retry.
    return {"retry-after": str(max(1, math.ceil(seconds)))}
