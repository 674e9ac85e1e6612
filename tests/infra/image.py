"""The image's Dockerfile, read and followed as far as that goes without an engine that builds images."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from tests.infra.kit import ROOT

DOCKERFILE = ROOT / "infra/images/Dockerfile"
IGNORED = ROOT / "infra/images/Dockerfile.dockerignore"


def instructions() -> list[tuple[str, str]]:
    """Return instructions and arguments, continued lines joined, comments left out."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line and not line.startswith("#")]


def copied() -> list[tuple[str, str]]:
    """Return source and target of everything that comes from the build context."""
    pairs = []
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            pairs += [(source, target) for source in sources]
    return pairs


def ignored(path: str) -> bool:
    """Return whether the ignore file keeps a path out of the context: the last line that matches decides."""
    out = False
    for line in IGNORED.read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            out = not line.startswith("!")
    return out


def lay_context(folder: Path) -> None:
    """Copy into a folder what the image's build would have in its working folder."""

    def left_out(at: str, names: list[str]) -> list[str]:
        inside = Path(at).relative_to(ROOT)
        return [name for name in names if name == "__pycache__" or ignored(str(inside / name))]

    for source, target in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, ignore=left_out)
        else:
            shutil.copy(ROOT / source, folder / target)
