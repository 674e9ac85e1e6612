"""`data/accelerators.yaml`: memory, bandwidth and cost of accelerator types."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.core.profile import Accelerator
from orchestrator.profiles.format import Between, check_order
from orchestrator.profiles.paths import DATA
from orchestrator.yaml_fields import STRICT, Count, Name, NotNegative
from orchestrator.yaml_file import load_yaml, read_text

Bandwidth = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorFacts:
    """One accelerator type; `Accelerator` explains the figures.

    Attributes:
        model: Which product is meant.
        source: Of memory and bandwidths.
        checked: When the cost was last looked up, YYYY-MM-DD.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: Name
    memory_bytes: Count
    memory_bytes_per_s: Bandwidth
    host_bytes_per_s: Bandwidth
    source: Name
    cost_per_h: NotNegative
    cost_source: Name
    provisioning_s: Between
    provisioning_source: Name
    checked: Day

    def __post_init__(self) -> None:
        check_order(self.provisioning_s, "provisioning_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorFile:
    """The whole file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    apiVersion: Literal["tercet/accelerators/v1"]  # noqa: N815
    accelerators: Mapping[Name, AcceleratorFacts]


_ADAPTER = TypeAdapter(AcceleratorFile)


def load_accelerators(path: Path | str = DATA / "accelerators.yaml") -> Mapping[str, Accelerator]:
    """Return the accelerator types in a file by name.

    Raises:
        FileError: Says what is wrong with the file and where.
    """
    file = load_yaml(_ADAPTER, read_text(path), path)
    return {
        name: Accelerator(
            name=name,
            memory_bytes=facts.memory_bytes,
            memory_bytes_per_s=facts.memory_bytes_per_s,
            host_bytes_per_s=facts.host_bytes_per_s,
            cost_per_h=facts.cost_per_h,
            provisioning_s=facts.provisioning_s,
        )
        for name, facts in file.accelerators.items()
    }
