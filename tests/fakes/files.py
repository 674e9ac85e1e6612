"""Files in a folder that other processes change meanwhile."""

import os
from pathlib import Path


def files_under(folder: Path) -> list[Path]:
    """Return every file below a folder; one that is gone, or goes during the look, has none.

    `Path.glob` and `Path.rglob` of Python 3.11 raise FileNotFoundError in that case.
    """
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
