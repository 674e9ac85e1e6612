"""YAML text to plain values that remember their line and column."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import yaml

Path = tuple[str | int, ...]
"""Keys and list indices from the root to a value."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a file, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class SourceError:
    """Text that is not the YAML we read, or a key given twice."""

    mark: Mark
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    Attributes:
        value: Mappings, lists, strings, numbers, booleans and None, as JSON has them.
        keys: Where the key of each mapping entry, or each list item, stands.
        values: Where each value stands.
    """

    value: object
    keys: Mapping[Path, Mark]
    values: Mapping[Path, Mark]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but with YAML 1.2's numbers such as 5e7, and without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

_SCALAR_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}

_MAX_INT = 2**53  # what JSON readers agree on

Parsed = tuple[Document | None, list[SourceError]]


@lru_cache(maxsize=128)  # many policies name one profile, and PyYAML takes milliseconds a line
def parse(text: str) -> Parsed:
    """Return the document and what is wrong with its text; no document if it is not YAML at all.

    What is returned is not to be written to.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, [SourceError(Mark(1, 1), (), "the file is empty")]
        return _Reader(loader).read(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return None, [SourceError(_mark(mark) if mark else Mark(1, 1), (), f"not YAML: {error.problem}")]
    except yaml.YAMLError as error:  # a character that YAML does not allow
        return None, [SourceError(Mark(1, 1), (), f"not YAML: {' '.join(str(error).split())}")]
    except RecursionError:
        return None, [SourceError(Mark(1, 1), (), "it is nested too deeply")]


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


class _Reader:
    """Turns nodes into values, noting marks and problems on the way."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._keys: dict[Path, Mark] = {}
        self._values: dict[Path, Mark] = {}
        self._seen: set[int] = set()
        self._errors: list[SourceError] = []

    def read(self, root: yaml.Node) -> Parsed:
        value = self._value(root, ())
        return Document(value, self._keys, self._values), self._errors

    def _value(self, node: yaml.Node, path: Path) -> object:
        self._values[path] = _mark(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._seen:
            # Also keeps a section that contains itself from being read for ever.
            self._error(node, path, "a section cannot be an alias of another")
            return None
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return {key: self._value(child, (*path, key)) for key, child in self._entries(node, path)}
        return [self._item(child, (*path, index)) for index, child in enumerate(node.value)]

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> str | int | float | bool | None:
        if node.tag not in _SCALAR_TAGS:
            self._error(node, path, f"the tag {node.tag} is not supported")
            return None
        try:
            value: str | int | float | bool | None = self._loader.construct_object(node)
        except (ValueError, LookupError):  # such as `!!int word` and `!!bool word`
            self._error(node, path, f"{node.value!r} is no {node.tag.rpartition(':')[2]}")
            return None
        if isinstance(value, int) and abs(value) > _MAX_INT:
            self._error(node, path, "the number is too large")
            return None
        return value

    def _item(self, node: yaml.Node, path: Path) -> object:
        self._keys[path] = _mark(node.start_mark)
        return self._value(node, path)

    def _entries(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, yaml.Node]]:
        for key_node, child in node.value:
            key = key_node.value
            if not isinstance(key, str):
                self._error(key_node, path, "a key must be a plain word")
            elif (*path, key) in self._keys:
                first = self._keys[*path, key].line
                self._error(key_node, (*path, key), f"given twice, first in line {first}")
            else:
                self._keys[*path, key] = _mark(key_node.start_mark)
                yield key, child

    def _error(self, node: yaml.Node, path: Path, message: str) -> None:
        self._errors.append(SourceError(_mark(node.start_mark), path, message))
