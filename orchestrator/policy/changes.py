"""What an edit of a policy file changes, and whether running pods can take it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from orchestrator.policy.values import Policy, StagePolicies, StagePolicy

Kind = Literal["live", "rollout"]

ROLLOUT_FIELDS = (
    "apiVersion",
    "service",
    "model.name",
    "model.kappa",
    "model.weights",
    "model.modalities",
    "model.max_context",
    "split.encode_from",
    "split.prefill_from",
    "stages.*.engine",
    "stages.*.hardware",
    "stages.*.tp",
    "stages.*.flags",
    "stages.*.batch",
    "stages.*.drain_s",
)
"""Fields that processes are started with; all others are taken by running ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs; None where a policy has no such entry."""

    path: str
    kind: Kind
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} → {_shown(self.new)}"


def kind_of(path: str) -> Kind:
    """Return whether a change of this field is taken live or replaces the pods of its stage."""
    return "rollout" if any(fnmatchcase(path, pattern) for pattern in ROLLOUT_FIELDS) else "live"


def classify(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Return the fields that differ, in the order of the file format."""
    before, after = dict(flat(old)), dict(flat(new))
    return tuple(
        Change(path=path, kind=kind_of(path), old=before.get(path), new=after.get(path))
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    )


def keep_running(running: Policy, edited: Policy) -> Policy:
    """Return `edited` with the rollout fields of `running`."""
    return replace(
        edited,
        apiVersion=running.apiVersion,
        service=running.service,
        model=replace(running.model, profile=edited.model.profile),
        split=running.split,
        stages=StagePolicies(
            encode=_keep_stage(running.stages.encode, edited.stages.encode),
            prefill=_keep_stage(running.stages.prefill, edited.stages.prefill),
            decode=_keep_stage(running.stages.decode, edited.stages.decode),
        ),
    )


def _keep_stage(running: StagePolicy, edited: StagePolicy) -> StagePolicy:
    return replace(
        edited,
        engine=running.engine,
        hardware=running.hardware,
        tp=running.tp,
        batch=running.batch,
        flags=running.flags,
        drain_s=running.drain_s,
    )


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted path and the value of every leaf of a policy."""
    if is_dataclass(value):
        entries = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, Mapping):
        entries = sorted(value.items())
    else:
        yield path, value
        return
    for name, child in entries:
        yield from flat(child, f"{path}.{name}" if path else name)


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
