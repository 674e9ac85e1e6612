"""What the parameters of all scaling policies have in common, and the checks of their ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.planned import ControlPolicy
from stages.types import Stage

P = TypeVar("P", bound="Params")

FROM_FILE: Mapping[str, object] = {"extra": "forbid", "strict": True}
"""For what parses parameters from a file: unknown keys are errors, and "8" is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters that every policy has: admission reads them, whatever scales the stages.

    Attributes:
        backpressure: Whether image work waits while prefill's backlog is too long.
        beta: Image work starts while prefill's backlog is within beta times its budget_s, which shall be no
            less than the time of the longest prompts, or images wait while prefill is idle; above 0.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = FROM_FILE

    backpressure: bool = True
    beta: float = 8.0

    def __post_init__(self) -> None:
        above_zero(self, "beta")

    @property
    def prefill_backlog(self) -> float:
        """Backlog of prefill, as a multiple of its budget_s, above which no image work starts."""
        return self.beta if self.backpressure else math.inf


def params_of(policy: ControlPolicy, kind: type[P]) -> P:
    """Return the policy's parameters, which must be of this kind."""
    if not isinstance(policy.params, kind):
        raise TypeError(f"{policy.scaling} takes {kind.__name__}, not {type(policy.params).__name__}")
    return policy.params


def of_stage(params: Params, name: str, stage: Stage) -> float:
    """Return a parameter's value for a stage: `encode_target` before `target`, where it is given."""
    own = getattr(params, f"{stage}_{name}", None)
    value: float = getattr(params, name) if own is None else own
    return value


def above_zero(params: object, *names: str) -> None:
    """Refuse values that are not finite and above 0; None, no limit, is fine."""
    for name in names:
        value = getattr(params, name)
        if value is not None and not 0.0 < value < math.inf:
            raise InfeasibleError(f"{value:g} is not above 0", name)


def not_negative(params: object, *names: str) -> None:
    """Refuse values that are not finite or below 0; None, no limit, is fine."""
    for name in names:
        value = getattr(params, name)
        if value is not None and not 0.0 <= value < math.inf:
            raise InfeasibleError(f"{value:g} is below 0", name)


def count(params: object, *names: str) -> None:
    """Refuse counts below 0; None, not given, is fine."""
    for name in names:
        value = getattr(params, name)
        if value is not None and value < 0:
            raise InfeasibleError(f"{value} is below 0", name)


def fraction(params: object, *names: str) -> None:
    """Refuse values that are not above 0 and at most 1; None, not given, is fine."""
    for name in names:
        value = getattr(params, name)
        if value is not None and not 0.0 < value <= 1.0:
            raise InfeasibleError(f"{value:g} is not above 0 and at most 1", name)
