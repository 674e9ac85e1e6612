"""Files of traces as text: plain or gzip, in whichever encoding, and what to say when they cannot be used."""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.workload import PrefixBlocks

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_OTHER_PACKERS = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}


class TraceError(Exception):
    """A trace that cannot be used.

    Attributes:
        file: Path as the caller gave it.
        row: Line of the unpacked file, from 1; 0 for the whole file.
        column: Name of the column, empty for the whole row or file.
        message: What is wrong.
        next_step: What to do about it.
    """

    def __init__(
        self, file: Path | str, message: str, next_step: str, *, row: int = 0, column: str = ""
    ) -> None:
        place = f"{file}:{row}" if row else str(file)
        subject = f"column {column}: " if column else ""
        super().__init__(f"{place}: {subject}{message}; {next_step}")
        self.file, self.row, self.column = str(file), row, column
        self.message, self.next_step = message, next_step


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceText:
    """The unpacked bytes of a file and how to read them.

    Attributes:
        file: Path as the caller gave it.
        encoding: For Python's codecs.
        notes: What was repaired to read it, for people.
    """

    file: Path | str
    data: bytes
    encoding: str
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Return the lines with their ends, decoded as they are asked for."""
        return io.TextIOWrapper(io.BytesIO(self.data), encoding=self.encoding)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawTrace:
    """Requests in the order of their file, of which only the form is checked.

    Attributes:
        file: Path as the caller gave it.
        columns: The file's name of each of the fields below.
        row_of: Position of a request to its line in the file, from 1.
        time_s: float64, seconds since the earliest of them.
        epoch_s: Unix time of that, or 0.0 if it is not known.
        images: int64, as are the tokens.
    """

    file: Path | str
    columns: Mapping[str, str]
    row_of: Callable[[int], int]
    time_s: NDArray[np.float64]
    epoch_s: float
    images: NDArray[np.int64]
    context_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    prefix_blocks: PrefixBlocks | None = None


def read_text(file: Path | str) -> TraceText:
    """Return the text of a file, gzip told by its content and not by its name.

    UTF-8 and UTF-16 are told by their byte order mark or zero bytes; anything else is read as Latin-1, since
    digits and column names are the same in it, and noted.

    Raises:
        TraceError: The file cannot be read, is packed in another way or is empty.
    """
    data = _unpacked(file, _bytes_of(file))
    if not data.strip(b"\x00\t\r\n \xef\xbb\xbf\xff\xfe"):
        raise TraceError(file, "the file is empty", "give a file with a header line and one request a line")
    encoding, notes = _encoding(data)
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        raise TraceError(file, f"is not {encoding} text", "save it as UTF-8") from error
    return TraceText(file=file, data=data, encoding=encoding, notes=notes)


def _bytes_of(file: Path | str) -> bytes:
    try:
        return Path(file).read_bytes()
    except FileNotFoundError as error:
        raise TraceError(file, "there is no such file", "check the path; data/traces has some") from error
    except OSError as error:
        raise TraceError(file, f"cannot be read: {error.strerror}", "give a readable file") from error


def _unpacked(file: Path | str, data: bytes) -> bytes:
    for magic, packer in _OTHER_PACKERS.items():
        if data.startswith(magic):
            raise TraceError(file, f"is packed with {packer}", "unpack it, or pack it with gzip")
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(file, f"is not a whole gzip file ({error})", "copy or download it again") from error


def _encoding(data: bytes) -> tuple[str, tuple[str, ...]]:
    for mark, encoding, name in _BOMS:
        if data.startswith(mark):
            return encoding, (() if name == "UTF-8" else (f"read as {name}",))
    head = data[:1024]
    if b"\x00" in head:  # ASCII text in UTF-16 has every other byte zero: which one tells the order
        encoding = "utf-16-be" if head[0] == 0 else "utf-16-le"
        return encoding, ("read as UTF-16 without a byte order mark",)
    try:
        data.decode()
    except UnicodeDecodeError:
        return "latin-1", ("not UTF-8: read as Latin-1",)
    return "utf-8", ()
