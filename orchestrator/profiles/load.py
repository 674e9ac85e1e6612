"""Profile files to values."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.core.profile import Accelerator, ModelProfile
from orchestrator.profiles.accelerators import load_accelerators
from orchestrator.profiles.check import contradictions
from orchestrator.profiles.convert import model_profile
from orchestrator.profiles.format import ProfileFile
from orchestrator.profiles.paths import DATA
from orchestrator.yaml_file import load_yaml, read_text

_ADAPTER = TypeAdapter(ProfileFile)


class NoProfileError(LookupError):
    """No profile goes by a model's name."""


def read_profile(path: Path | str, accelerators: Mapping[str, Accelerator] | None = None) -> ProfileFile:
    """Return a profile file as it stands.

    Raises:
        FileError: Says what is wrong with the file and where.
    """
    known = load_accelerators() if accelerators is None else accelerators
    return parse_profile(read_text(path), path, known)


def parse_profile(text: str, path: Path | str, accelerators: Mapping[str, Accelerator]) -> ProfileFile:
    """Return a profile file's text as it stands; `path` is for messages.

    Raises:
        FileError: As for `read_profile`.
    """
    return load_yaml(_ADAPTER, text, path, lambda file: contradictions(file, accelerators))


def load_profile(path: Path | str, accelerators: Mapping[str, Accelerator] | None = None) -> ModelProfile:
    """Return the profile in a file.

    Args:
        path: The file.
        accelerators: What it may be on; those of `data/accelerators.yaml` by default.

    Raises:
        FileError: Says what is wrong with the file and where.
    """
    known = load_accelerators() if accelerators is None else accelerators
    return model_profile(read_profile(path, known), known)


def find_profile(
    model: str, accelerators: Mapping[str, Accelerator] | None = None, folder: Path = DATA / "profiles"
) -> ModelProfile:
    """Return the profile of a model by its name, an alias or its file's name, in any case.

    Raises:
        NoProfileError: There is none; the message lists those there are.
        FileError: As for `load_profile`.
    """
    return load_profile(profile_path(model, folder), accelerators)


def profile_path(model: str, folder: Path = DATA / "profiles") -> Path:
    """Return the file that has a model's profile.

    Raises:
        NoProfileError: As for `find_profile`.
        FileError: One of the folder's files is wrong.
    """
    paths = sorted(folder.glob("*.yaml"))
    for path in paths:
        # Most often the file has the model's name, and the others need not be read.
        if path.stem == model:
            return path
    for path in paths:
        file = read_profile(path)
        if model.lower() in {name.lower() for name in (file.model, *file.aliases, path.stem)}:
            return path
    raise NoProfileError(f"there is no profile of {model}; known: {', '.join(path.stem for path in paths)}")
