"""Readers of one JSON field each: the value, or a 400 that names its path and what was expected."""

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from orchestrator.api_errors import ApiError, invalid_request, shown

Json = Any
"""What a JSON decoder returns: dict, list, str, int, float, bool or None."""


def as_object(value: Json, path: str) -> dict[str, Json]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return value


def as_list(value: Json, path: str) -> list[Json]:
    """Return a JSON array."""
    if not isinstance(value, list):
        raise wrong_type(path, "a list", value)
    return value


def as_text(value: Json, path: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    return value


def required(fields: Mapping[str, Json], name: str, path: str = "") -> Json:
    """Return a field that must be there and not null."""
    value = fields.get(name)
    if value is None:
        param = f"{path}.{name}" if path else name
        raise invalid_request(f"{param} is missing", param=param, code="missing_required_parameter")
    return value


def one_of(value: Json, path: str, known: Collection[str]) -> str:
    """Return a string out of a closed set."""
    if not isinstance(value, str) or value not in known:
        message = f"{path}: {shown(value)} is not supported; known are: {', '.join(known)}"
        raise invalid_request(message, param=path, code="invalid_value")
    return value


def flag(fields: Mapping[str, Json], name: str, path: str = "") -> bool:
    """Return a boolean; absent and null are false."""
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_type(path or name, "true or false", value)
    return value


def integer(fields: Mapping[str, Json], name: str, low: int, high: int) -> int | None:
    """Return an integer within [low, high], or None when absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name, "an integer", value)
    if not low <= value <= high:
        raise _out_of_range(name, value, low, high)
    return value


def number(fields: Mapping[str, Json], name: str, low: float, high: float, *, default: float) -> float:
    """Return a number within [low, high], or the default when absent or null."""
    value = fields.get(name)
    if value is None:
        return default
    if not _is_number(value):
        raise wrong_type(name, "a number", value)
    if not low <= value <= high:
        raise _out_of_range(name, value, low, high)
    return float(value)


def _is_number(value: Json) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def wrong_type(path: str, expected: str, value: Json) -> ApiError:
    """400: a value of another JSON type."""
    message = f"{path or 'the body'}: expected {expected}, got {_JSON_TYPES[type(value)]}"
    return invalid_request(message, param=path or None, code="invalid_type")


def _out_of_range(path: str, value: float, low: float, high: float) -> ApiError:
    code = "value_below_min" if value < low else "value_above_max"
    message = f"{path} must be between {low:,} and {high:,}, got {shown(value)}"
    return invalid_request(message, param=path, code=code)


def unsupported(path: str, value: Json) -> ApiError:
    """400: a field that no engine here honours asks for something."""
    message = f"{path} is not supported by the engines of this model, got {shown(value)}; leave it out"
    return invalid_request(message, param=path, code="unsupported_parameter")


_JSON_TYPES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
