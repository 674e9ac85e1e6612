"""Policy file to `Policy`, or a list of everything that is wrong with it and where."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path as FilePath
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.policy import source
from orchestrator.policy.fields import InfeasibleError
from orchestrator.policy.values import Policy

_ADAPTER = TypeAdapter(Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a policy file.

    Attributes:
        file: Path as the caller gave it.
        line: From 1.
        column: From 1.
        key: Dotted path of the key, empty for the whole file.
        nearest: The valid key or value that was probably meant, else empty.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    nearest: str = ""

    def __str__(self) -> str:
        subject = f"`{self.key}`: " if self.key else ""
        hint = f"; did you mean `{self.nearest}`?" if self.nearest else ""
        return f"{self.file}:{self.line}:{self.column}: {subject}{self.message}{hint}"


class PolicyError(Exception):
    """A policy file that cannot be used.

    Attributes:
        problems: Everything found, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def load_policy(path: FilePath | str) -> Policy:
    """Return the policy in a file.

    Raises:
        PolicyError: The file cannot be read, is not YAML, or is not a feasible policy.
    """
    return parse_policy(read_text(path), path)


def read_text(path: FilePath | str) -> str:
    """Return the text of a policy file.

    Raises:
        PolicyError: It cannot be read or is not UTF-8.
    """
    try:
        return FilePath(path).read_bytes().decode()
    except OSError as error:
        raise PolicyError([_problem(path, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise PolicyError([_problem(path, "is not UTF-8 text")]) from error


def parse_policy(text: str, path: FilePath | str) -> Policy:
    """Return the policy in `text`, which was read from `path`.

    Raises:
        PolicyError: As for `load_policy`.
    """
    document, errors = source.parse(text)
    problems = [_problem(path, e.message, e.mark, e.path) for e in errors]
    if document is None:
        raise PolicyError(problems)
    try:
        policy = _ADAPTER.validate_json(json.dumps(document.value))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems += [_explain(path, document, detail) for detail in details]
    else:
        problems += _missing_trace(policy, path, document)
    if problems:
        raise PolicyError(sorted(problems, key=lambda p: (p.line, p.column, p.key)))
    return policy


def dump_policy(policy: Policy) -> bytes:
    """Return a policy as JSON, every field of it, for `restore_policy`."""
    return _ADAPTER.dump_json(policy)


def restore_policy(dumped: bytes) -> Policy:
    """Return the policy that `dump_policy` was given.

    Raises:
        ValueError: It is none, or one of another version.
    """
    return _ADAPTER.validate_json(dumped)


def policy_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of policy files, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_ADAPTER.json_schema()}


def _problem(
    path: FilePath | str,
    message: str,
    mark: source.Mark | None = None,
    where: source.Path = (),
    nearest: str = "",
) -> Problem:
    line, column = (mark.line, mark.column) if mark else (1, 1)
    key = ".".join(str(part) for part in where)
    return Problem(file=str(path), line=line, column=column, key=key, message=message, nearest=nearest)


def _missing_trace(policy: Policy, path: FilePath | str, document: source.Document) -> Iterator[Problem]:
    trace, where = policy.demand.trace, ("demand", "trace")
    if trace and not (FilePath(path).parent / trace).is_file():
        yield _problem(path, f"there is no file {trace} beside the policy", document.values[where], where)


def _explain(path: FilePath | str, document: source.Document, detail: ErrorDetails) -> Problem:
    """Say what pydantic found in the words of the file."""
    where, kind = detail["loc"], detail["type"]
    choices = re.findall(r"'([^']+)'", detail.get("ctx", {}).get("expected", ""))
    if kind == "unexpected_keyword_argument":
        return _unknown_key(path, document, where, valid_keys(where[:-1]))
    if where[-1:] == ("[key]",):  # a mapping whose keys are from a closed set
        return _unknown_key(path, document, where[:-1], choices)
    where, message = _reworded(where, detail)
    nearest = _nearest(str(_at(document.value, where)), choices) if choices else ""
    mark = document.values.get(where)
    # A missing key is reported at the section that misses it.
    return _problem(path, message, mark or document.values[where[:-1]], where, nearest)


def _unknown_key(
    path: FilePath | str, document: source.Document, where: source.Path, valid: Sequence[str]
) -> Problem:
    nearest = _nearest(str(where[-1]), valid)
    message = "unknown key" if nearest else f"unknown key; {_advice(str(where[-1]), valid)}"
    return _problem(path, message, document.keys[where], where, nearest)


def _advice(key: str, valid: Sequence[str]) -> str:
    sections = [".".join(path) for path in _paths() if path[-1] == key]
    return f"it is known as `{'`, `'.join(sections)}`" if sections else f"valid here: {', '.join(valid)}"


def _reworded(where: source.Path, detail: ErrorDetails) -> tuple[source.Path, str]:
    """Return where the reader should look and what to read there."""
    reason = detail.get("ctx", {}).get("error")
    if isinstance(reason, InfeasibleError):
        return (*where, *reason.keys), str(reason)
    if detail["type"] == "missing":
        return where, "is missing"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = re.sub(r"^(Tuple|String|Input) should", "must", message)
    return where, message.replace(" after validation", "").replace("an object", "a mapping")


def valid_keys(section: source.Path) -> list[str]:
    """Return the keys that the section at this path may have."""
    return [path[-1] for path in _paths() if path[:-1] == section]


@cache
def _paths() -> Sequence[tuple[str, ...]]:
    """Return the path of every key of the format, in its order."""
    schema = _ADAPTER.json_schema()

    def below(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        for key, child in node.get("properties", {}).items():
            yield (*path, key)
            yield from below(child, (*path, key))

    return tuple(below(schema, ()))


def _nearest(word: str, valid: Sequence[str]) -> str:
    plain = {re.sub(r"[-_]", "", v.lower()): v for v in valid}
    close = get_close_matches(re.sub(r"[-_]", "", word.lower()), plain, n=1)
    return plain[close[0]] if close else ""


def _at(value: object, where: source.Path) -> object:
    for part in where:
        if isinstance(value, dict):
            value = value[part]
        elif isinstance(value, list):
            value = value[int(part)]
    return value
