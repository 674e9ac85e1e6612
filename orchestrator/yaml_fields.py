"""Kinds of fields that policy files and data files are made of."""

from typing import Annotated

from pydantic import ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

STRICT = ConfigDict(extra="forbid", strict=True)


class InfeasibleError(ValueError):
    """Fields that are valid alone and contradict each other.

    Attributes:
        keys: Path from the section to the value that the message is about.
    """

    def __init__(self, message: str, *keys: str | int) -> None:
        super().__init__(message)
        self.keys = keys
