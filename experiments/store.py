"""What has been measured already, on disk, so that a run that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from experiments.point import Measured, Point

ROOT = Path(__file__).resolve().parents[1]
_READ = ("experiments", "orchestrator", "stages/types.py", "data", "policies/examples")
_SUFFIXES = {".py", ".yaml", ".csv", ".gz"}


def fingerprint(root: Path = ROOT) -> str:
    """Return a digest of everything that results depend on: code, profiles, prices, traces."""
    digest = hashlib.sha256()
    for file in sorted(file for part in _READ for file in _files(root / part)):
        digest.update(str(file.relative_to(root)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else [f for f in path.rglob("*") if f.suffix in _SUFFIXES]


class Store:
    """Measurements of one experiment at one scale: a line of JSON each, in a file that is only appended to.

    Args:
        folder: Of all experiments.
        experiment: Its name.
        scale: Its scale's.
    """

    def __init__(self, folder: Path, experiment: str, scale: str) -> None:
        self._file = folder / f"{experiment}-{scale}.jsonl"

    def load(self, code: str | None) -> list[Measured]:
        """Return what was measured, the latest of each point and seed; a line that was cut off is none.

        Args:
            code: Only what code of this fingerprint measured; None: any.
        """
        if not self._file.exists():
            return []
        found: dict[tuple[Point, int], Measured] = {}
        for line in self._file.read_text(encoding="utf-8").splitlines():
            measured = _parsed(line)
            if measured is not None and code in (None, measured.code):
                found[measured.point, measured.seed] = measured
        return list(found.values())

    def add(self, measured: Measured) -> None:
        """Keep a measurement."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        line = {
            "code": measured.code,
            "point": measured.point.factors,
            "seed": measured.seed,
            "row": measured.row,
            "wall_s": measured.wall_s,
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _parsed(line: str) -> Measured | None:
    try:
        read = json.loads(line)
    except json.JSONDecodeError:
        return None
    return Measured(
        point=Point(tuple((str(name), value) for name, value in read["point"])),
        seed=read["seed"],
        row=read["row"],
        wall_s=read["wall_s"],
        code=read["code"],
    )
