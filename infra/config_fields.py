"""Kinds of values in a stack's configuration."""

from typing import Annotated

from pydantic import Field

LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
Host = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,249}[a-z0-9])?$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
Cidr = Annotated[str, Field(pattern=r"^[0-9a-f.:]+/[0-9]{1,3}$")]
Port = Annotated[int, Field(ge=1, le=65_535)]
