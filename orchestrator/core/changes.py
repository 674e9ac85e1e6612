"""What has to be done to the cluster, and why there."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from stages.types import Stage


class PlaceReason(StrEnum):
    """Why a replica is placed, removed or left without a place."""

    GIVEN = "given"
    """Not decided by the scheduler."""

    NEW_GROUP = "new-group"
    LESS_SCARCE = "less-scarce"
    """In a new group, as hardware of the group that had room is scarcer."""
    COMPLETES_GROUP = "completes-group"
    """The group had less of this stage than its others need."""
    EXTENDS_GROUP = "extends-group"

    NOT_STARTED = "not-started"
    """It does no work yet."""
    PLACED_ELSEWHERE = "placed-elsewhere"
    """It waited for a place, and another replica was placed instead."""
    UNBALANCED = "unbalanced"
    """Its group has more of this stage than its others need."""
    ROLE_SWITCH = "role-switch"
    """Its stage has more than it needs, and the other of prefill and decode less."""
    SCARCEST = "scarcest"
    LEAST_WORK = "least-work"

    NO_PROFILE = "no-profile"
    """No hardware type that the policy names is in the profile, or the model does not fit."""
    NO_DOMAIN = "no-domain"
    """No node has as many topology levels as an edge requires."""
    NO_FREE_ACCELERATORS = "no-free-accelerators"
    QUOTA = "quota"
    START_TIMED_OUT = "start-timed-out"
    """It was pending or starting for longer than the policy's `pending_timeout_s`."""

    START_FAILED = "start-failed"
    """It has said that it cannot start: its server did not take its role."""

    GROUP_INCOMPLETE = "group-incomplete"
    """There is room for it, but not for what it would work with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Start a replica.

    Attributes:
        node_id: Where; empty if no place is free, and then it stays gated.
        domain: Of the node.
    """

    service: str
    stage: Stage
    hardware: str
    tp: int
    node_id: str
    domain: tuple[str, ...] = ()
    group: str = ""
    reason: PlaceReason = PlaceReason.GIVEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Drain a replica, then delete it."""

    replica_id: str
    service: str
    stage: Stage
    reason: PlaceReason = PlaceReason.GIVEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Have a replica drain, then take another role in its place, with its accelerators and its weights.

    Attributes:
        stage: What it does now.
        to: What it will do; from now on it is one of that stage that is starting.
    """

    replica_id: str
    service: str
    stage: Stage
    to: Stage
    reason: PlaceReason = PlaceReason.ROLE_SWITCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What has to be done to the cluster, removals first."""

    remove: tuple[Remove, ...] = ()
    switch: tuple[Switch, ...] = ()
    create: tuple[Create, ...] = ()

    @property
    def leaving(self) -> Mapping[str, PlaceReason]:
        """Why replicas leave their stage, by id: those removed and those that switch."""
        removed = {each.replica_id: each.reason for each in self.remove}
        return removed | {each.replica_id: each.reason for each in self.switch}
