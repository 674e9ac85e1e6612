"""Profile and accelerator files to values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.core.profile import Accelerator, ModelProfile
from orchestrator.profiles.convert import model_profile
from orchestrator.profiles.format import ProfileFile
from orchestrator.yaml_fields import STRICT, Count, Name, NotNegative
from orchestrator.yaml_file import load_yaml, read_text

DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorFacts:
    """One accelerator type in `data/accelerators.yaml`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: Name
    memory_bytes: Count
    memory_bytes_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    host_bytes_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    cost_per_h: NotNegative
    source: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorFile:
    """`data/accelerators.yaml`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    apiVersion: Literal["tercet/accelerators/v1"]  # noqa: N815
    accelerators: Mapping[Name, AcceleratorFacts]


_PROFILES = TypeAdapter(ProfileFile)
_ACCELERATORS = TypeAdapter(AcceleratorFile)


def load_accelerators(path: Path | str = DATA / "accelerators.yaml") -> Mapping[str, Accelerator]:
    """Return the accelerator types in a file by name.

    Raises:
        FileError: The file cannot be read or does not follow the format.
    """
    file = load_yaml(_ACCELERATORS, read_text(path), path)
    return {
        name: Accelerator(
            name=name,
            memory_bytes=facts.memory_bytes,
            memory_bytes_per_s=facts.memory_bytes_per_s,
            host_bytes_per_s=facts.host_bytes_per_s,
            cost_per_h=facts.cost_per_h,
        )
        for name, facts in file.accelerators.items()
    }


def load_profile(path: Path | str, accelerators: Mapping[str, Accelerator] | None = None) -> ModelProfile:
    """Return the profile in a file; `accelerators` are those of `data/` by default.

    Raises:
        FileError: The file cannot be read or does not follow the format.
    """
    file = load_yaml(_PROFILES, read_text(path), path)
    return model_profile(file, load_accelerators() if accelerators is None else accelerators)


def find_profile(model: str) -> ModelProfile:
    """Return the profile of a model by its name or an alias.

    Raises:
        LookupError: There is none; the message lists those there are.
    """
    known = _known()
    if model.lower() not in known:
        raise LookupError(f"no profile of {model}; data/profiles/ has {', '.join(sorted(known))}")
    return load_profile(known[model.lower()])


@cache
def _known() -> Mapping[str, Path]:
    paths = sorted((DATA / "profiles").glob("*.yaml"))
    files = {path: load_yaml(_PROFILES, read_text(path), path) for path in paths}
    return {
        name.lower(): path for path, file in files.items() for name in (path.stem, file.model, *file.aliases)
    }
