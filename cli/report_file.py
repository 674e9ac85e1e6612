"""Files that appear whole or not at all."""

from pathlib import Path


def check_writable(file: Path) -> None:
    """Find out before the work is done whether its result can be kept.

    Raises:
        OSError: It cannot.
    """
    partial = _partial(file)
    partial.touch()
    partial.unlink()


def write_whole(file: Path, text: str) -> None:
    """Write a file, so that nobody ever sees a part of it.

    Raises:
        OSError: It cannot be written; what was there is unharmed.
    """
    partial = _partial(file)
    try:
        # Names of files may hold bytes that are no UTF-8.
        partial.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")
