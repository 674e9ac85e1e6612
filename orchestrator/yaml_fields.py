"""Kinds of fields that policy files and data files are made of."""

from typing import Annotated

from pydantic import ConfigDict, Field

from orchestrator.core.infeasible import InfeasibleError

Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

__all__ = ["STRICT", "Count", "InfeasibleError", "Name", "NotNegative", "Seconds"]

STRICT = ConfigDict(extra="forbid", strict=True)
