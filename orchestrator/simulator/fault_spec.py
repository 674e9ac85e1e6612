"""Faults from a few words: `node-loss:at=3600,for=1800`."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any

from orchestrator.core.observed import Node
from orchestrator.simulator.faults import KINDS, Fault, MetricLoss, NodeLoss, QuotaCut, ReplicaLoss, ZoneLoss
from stages.types import Stage

_WORDS = {"at_s": "at", "for_s": "for"}
"""Fields whose words differ from their names."""


class FaultError(ValueError):
    """A fault that cannot be understood or cannot happen; its text says what could be."""


def parse_fault(text: str) -> Fault:
    """Return the fault of `KIND:WORD=VALUE,…`; times in seconds.

    Args:
        text: For example `quota:at=600,for=1800,hardware=h100,most=64`.

    Raises:
        FaultError: It is not of that form.
    """
    name, _, rest = text.partition(":")
    kind = KINDS.get(name.strip())
    if kind is None:
        raise FaultError(f"{_unknown('fault', name.strip(), KINDS)}, such as node-loss:at=3600,for=1800")
    words = {_WORDS.get(field.name, field.name): field for field in fields(kind)}
    given: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        word, equals, value = (each.strip() for each in part.partition("="))
        if word not in words or not equals:
            raise FaultError(f"{text!r}: {_unknown('word', word, words)}, as WORD=VALUE")
        if words[word].name in given:
            raise FaultError(f"{text!r}: {word} is there twice")
        given[words[word].name] = _value(text, word, value)
    missing = [w for w, field in words.items() if field.name not in given and field.default is MISSING]
    if missing:
        raise FaultError(f"{text!r} lacks {' and '.join(f'{word}=…' for word in missing)}")
    return kind(**given)


def check_faults(faults: Sequence[Fault], services: Collection[str], nodes: Sequence[Node]) -> None:
    """Refuse faults of services, nodes, domains or hardware that are not there.

    Raises:
        FaultError: Names the fault's word and what there is.
    """
    domains = sorted({name for node in nodes for name in node.domain})
    for fault in faults:
        if isinstance(fault, ReplicaLoss | MetricLoss):
            _check("service", fault.service, services)
        elif isinstance(fault, NodeLoss):
            _check("node", fault.node, sorted(node.node_id for node in nodes))
        elif isinstance(fault, ZoneLoss):
            _check("domain", fault.domain, domains)
        elif isinstance(fault, QuotaCut):
            _check("hardware", fault.hardware, sorted({node.hardware for node in nodes}))


def _check(word: str, name: str, there: Collection[str]) -> None:
    if name and name not in there:
        raise FaultError(_unknown(word, name, there))


def _unknown(what: str, name: str, there: Collection[str]) -> str:
    """Say that a name is unknown and which ones are not, the nearest first where there are many."""
    shown = [*get_close_matches(name, there, 3, 0.0), "…"] if len(there) > 12 else list(there)
    return f"there is no {what} {name!r}; there are {', '.join(shown) or 'none'}"


def _value(text: str, word: str, value: str) -> object:
    read, allowed = _VALUES[word]
    try:
        found = read(value)
    except ValueError:
        found = None
    if found is None or (isinstance(found, float) and not math.isfinite(found)):
        raise FaultError(f"{text!r}: {word}={value!r} is not {allowed}")
    return found


def _at_least(least: float, read: Callable[[str], float]) -> Callable[[str], float | None]:
    def bounded(text: str) -> float | None:
        value = read(text)
        return value if value >= least else None

    return bounded


def _name(text: str) -> str | None:
    return text or None


_VALUES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "at": (_at_least(0.0, float), "seconds since the start, such as 3600"),
    "for": (_at_least(1e-9, float), "seconds above 0, such as 1800"),
    "stage": (Stage, f"one of {', '.join(Stage)}"),
    "count": (_at_least(1, int), "a whole number from 1"),
    "most": (_at_least(0, int), "a whole number from 0"),
    "service": (_name, "a name"),
    "node": (_name, "a node's id"),
    "domain": (_name, "the name of a topology domain"),
    "hardware": (_name, "a type of accelerators"),
}
