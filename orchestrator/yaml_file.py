"""YAML file to checked values, or a list of everything that is wrong with it and where.

The format is a pydantic `TypeAdapter` of frozen dataclasses that forbid unknown keys (`yaml_fields.STRICT`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator import yaml_source as source
from orchestrator.yaml_fields import InfeasibleError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a file.

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


class FileError(Exception):
    """A file that cannot be used.

    Attributes:
        problems: Everything found, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def read_text(path: FilePath | str) -> str:
    """Return the text of a file.

    Raises:
        FileError: It cannot be read or is not UTF-8.
    """
    try:
        return FilePath(path).read_bytes().decode()
    except OSError as error:
        raise FileError([_problem(path, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise FileError([_problem(path, "is not UTF-8 text")]) from error


def load_yaml(
    adapter: TypeAdapter[T],
    text: str,
    path: FilePath | str,
    check: Callable[[T], Iterable[InfeasibleError]] = lambda _: (),
) -> T:
    """Return the value in `text`, which was read from `path`.

    Args:
        adapter: Its type.
        text: YAML.
        path: For messages.
        check: Yields what is wrong with a value of the right form; the errors' keys lead from the root.

    Raises:
        FileError: The text is not YAML, or is not a value of the type.
    """
    document, errors = source.parse(text)
    problems = [_problem(path, e.message, e.mark, e.path) for e in errors]
    if document is None:
        raise FileError(problems)
    try:
        value = adapter.validate_json(json.dumps(document.value))
    except ValidationError as error:
        explain = _Explainer(path, document, adapter)
        problems += map(explain.detail, error.errors(include_url=False, include_input=False))
    else:
        problems += [_problem(path, str(e), _nearest_mark(document, e.keys), e.keys) for e in check(value)]
    if problems:
        raise FileError(sorted(problems, key=lambda p: (p.line, p.column, p.key)))
    return value


def json_schema(adapter: TypeAdapter[Any]) -> Mapping[str, Any]:
    """Return the JSON Schema of a format, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **adapter.json_schema()}


def valid_keys(adapter: TypeAdapter[Any], section: source.Path, value: object = None) -> list[str]:
    """Return the keys that the section at this path may have; none if they are free.

    Args:
        adapter: The format.
        section: Path to it.
        value: The whole document, if there is one: it tells which member of a union it follows.
    """
    schema = adapter.json_schema()
    nodes: list[Mapping[str, Any]] = [schema]
    for part in section:
        nodes = [child for node in nodes for child in _step(schema, node, part, value)]
        value = _child(value, part)
    return list(dict.fromkeys(key for node in nodes for key in _properties(schema, node, value)))


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


def _nearest_mark(document: source.Document, where: source.Path) -> source.Mark:
    """Return where the value stands; for a missing one, the section that misses it."""
    while where not in document.values:
        where = where[:-1]
    return document.values[where]


class _Explainer:
    """Says what pydantic found in the words of the file."""

    def __init__(self, path: FilePath | str, document: source.Document, adapter: TypeAdapter[Any]) -> None:
        self._path = path
        self._document = document
        self._adapter = adapter

    def detail(self, detail: ErrorDetails) -> Problem:
        where, kind = self._in_file(detail["loc"]), detail["type"]
        choices = re.findall(r"'([^']+)'", detail.get("ctx", {}).get("expected", ""))
        if kind == "unexpected_keyword_argument":
            return self._unknown_key(where, valid_keys(self._adapter, where[:-1], self._document.value))
        if detail["loc"][-1:] == ("[key]",) and choices:  # a mapping whose keys are from a closed set
            return self._unknown_key(where, choices)
        where, message = _reworded(where, detail)
        nearest = _nearest(str(_at(self._document.value, where)), choices) if choices else ""
        return _problem(self._path, message, _nearest_mark(self._document, where), where, nearest)

    def _in_file(self, loc: source.Path) -> source.Path:
        """Leave out what pydantic adds to a path, such as the member of a union; keep a missing key."""
        where: source.Path = ()
        for part in loc[:-1]:
            where = (*where, part) if (*where, part) in self._document.values else where
        return where if loc[-1:] == ("[key]",) else (*where, *loc[-1:])

    def _unknown_key(self, where: source.Path, valid: Sequence[str]) -> Problem:
        key = str(where[-1])
        nearest = _nearest(key, valid)
        message = "unknown key" if nearest else f"unknown key; {self._advice(where, valid)}"
        mark = self._document.keys.get(where) or _nearest_mark(self._document, where)
        return _problem(self._path, message, mark, where, nearest)

    def _advice(self, where: source.Path, valid: Sequence[str]) -> str:
        key, here = str(where[-1]), ".".join(map(str, where))
        known = (".".join(path) for path in _paths(self._adapter) if path[-1] == key)
        sections = [section for section in dict.fromkeys(known) if section != here]
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


def _paths(adapter: TypeAdapter[Any]) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key of the format, in its order; `*` stands for a free key or an index."""
    schema = adapter.json_schema()

    def below(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for variant in _variants(schema, node):
            for key, child in variant.get("properties", {}).items():
                yield (*path, key)
                yield from below(child, (*path, key))
            for child in _repeated(variant):
                yield from below(child, (*path, "*"))

    return below(schema, ())


def _variants(schema: Mapping[str, Any], node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the schemas that a value may follow, references and unions resolved."""
    if "$ref" in node:
        return _variants(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    members = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    return [v for member in members for v in _variants(schema, member)] or [node]


def _followed(
    schema: Mapping[str, Any], node: Mapping[str, Any], value: object
) -> Iterator[Mapping[str, Any]]:
    """Yield the variants whose constants the value does not contradict."""
    for variant in _variants(schema, node):
        constants = {k: p["const"] for k, p in variant.get("properties", {}).items() if "const" in p}
        required = variant.get("required", ())
        if not isinstance(value, dict) or all(
            value[k] == constant if k in value else k not in required for k, constant in constants.items()
        ):
            yield variant


def _properties(schema: Mapping[str, Any], node: Mapping[str, Any], value: object) -> Iterator[str]:
    for variant in _followed(schema, node, value):
        yield from variant.get("properties", {})


def _step(
    schema: Mapping[str, Any], node: Mapping[str, Any], part: str | int, value: object
) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of what stands under a key or an index."""
    for variant in _followed(schema, node, value):
        child = variant.get("properties", {}).get(part)
        yield from [child] if child else _repeated(variant)


def _child(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part)
    return value[int(part)] if isinstance(value, list) else None


def _repeated(variant: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of entries with free keys and of list items."""
    for keyword in ("additionalProperties", "items"):
        if isinstance(variant.get(keyword), dict):
            yield variant[keyword]
    yield from variant.get("patternProperties", {}).values()


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
