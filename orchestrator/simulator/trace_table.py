"""CSV tables with a header: where columns stand, cells as numbers and times, and what is wrong with them."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.trace_file import TraceError, TraceText, read_text

CORRECT = "correct or delete the row"
_SECONDS_AT = len("YYYY-MM-DDTHH:MM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A small table, cells as text.

    Attributes:
        file: Path as the caller gave it.
        rows: Line of each row in the file, from 1.
        columns: Cells by the name of the column, those asked for only.
        notes: What was repaired to read it.
    """

    file: Path | str
    rows: Sequence[int]
    columns: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as numbers from 0.

        Raises:
            TraceError: A cell is no finite number or negative.
        """
        return np.array([self._number(column, index) for index in range(len(self.rows))])

    def times_s(self, column: str) -> NDArray[np.float64]:
        """Return a column of ISO 8601 times as Unix times in seconds.

        Raises:
            TraceError: A cell is not a time or not of the first one's zone.
        """
        stamps = np.array([cell.strip().encode(errors="replace") for cell in self.columns[column]])
        moments, zone = parse_times(stamps)
        if len(unknown := np.flatnonzero(np.isnat(moments))):
            raise self.error(int(unknown[0]), column, "{cell!r} is not a time such as 2024-10-16T08:36Z")
        return moments.astype(np.int64) / 1e6 - offset_s(zone)

    def error(self, index: int, column: str, message: str) -> TraceError:
        """Return the error that points to a cell; `{cell}` in the message becomes its text."""
        text = message.format(cell=self.columns[column][index].strip()[:40])
        return TraceError(self.file, text, CORRECT, row=self.rows[index], column=column)

    def _number(self, column: str, index: int) -> float:
        try:
            number = float(self.columns[column][index])
        except ValueError:
            raise self.error(index, column, "{cell!r} is not a number") from None
        if not 0 <= number < 1e15:
            raise self.error(index, column, "{cell} is negative or absurd")
        return number


def read_table(file: Path | str, columns: Sequence[str]) -> Table:
    """Return the named columns of a CSV file; others, blank lines and those that begin with # are left out.

    Raises:
        TraceError: The file cannot be read, a column or a cell is missing, or there are no rows.
    """
    text = read_text(file)
    places, skip = header(text, columns)
    numbers: list[int] = []
    cells: dict[str, list[str]] = {name: [] for name in columns}
    for row, values in rows(text, skip):
        check_width(text, places, row, values)
        numbers.append(row)
        for name, place in places.items():
            cells[name].append(values[place])
    if not numbers:
        raise TraceError(file, "there are no rows below the header", "give at least one row")
    return Table(file=file, rows=numbers, columns=cells, notes=text.notes)


def header(
    text: TraceText, needed: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Mapping[str, int], int]:
    """Return where the columns stand in a row, from 0, and how many lines precede the first row.

    Raises:
        TraceError: There is no header, or it lacks a needed column.
    """
    for number, line in enumerate(text.lines(), start=1):
        if line.strip() and not line.startswith("#"):
            return _places(text, number, next(csv.reader([line])), needed, optional), number
    raise TraceError(text.file, "there is no header", f"begin with the line {','.join(needed)}")


def rows(text: TraceText, skip: int) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the line and the cells of every row after so many lines."""
    reader = csv.reader(islice(text.lines(), skip, None))
    for cells in reader:
        if cells and not cells[0].startswith("#"):
            yield skip + reader.line_num, cells


def check_width(text: TraceText, places: Mapping[str, int], row: int, cells: Sequence[str]) -> None:
    """Raise a `TraceError` if the row ends before one of the columns."""
    for name, place in places.items():
        if place >= len(cells):
            message = f"is missing, for the row has only {len(cells)} cells"
            raise TraceError(text.file, message, "complete or delete the row", row=row, column=name)


def parse_times(stamps: NDArray[np.bytes_]) -> tuple[NDArray[np.datetime64], str]:
    """Return ISO 8601 times in microseconds and their zone; NaT where one is none or of another zone.

    Args:
        stamps: At least one, without spaces around.
    """
    zone = stamps[0].decode(errors="replace")[_SECONDS_AT:].lstrip(".:0123456789 ")
    local = np.strings.replace(stamps, zone.encode(), b"") if zone else stamps
    # numpy would take a number for a year, "now" for a time, and another zone for none.
    plain = (np.strings.find(local, b"-") == len("YYYY")) & (np.strings.rfind(local, b"-") <= len("YYYY-MM"))
    for mark in (b"Z", b"+"):
        plain &= np.strings.find(local, mark) < 0
    dated = np.where(plain & np.strings.endswith(stamps, zone.encode()), local, b"NaT")
    try:
        return dated.astype("datetime64[us]"), zone
    except ValueError:
        return np.array([_moment(stamp) for stamp in dated], dtype="datetime64[us]"), zone


def offset_s(zone: str) -> float:
    """Return how many seconds a zone such as "Z", "+02:00" or "" is ahead of UTC, 0.0 if it is none."""
    try:
        offset = datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").utcoffset()
    except ValueError:
        return 0.0
    return offset.total_seconds() if offset else 0.0


def _moment(stamp: bytes) -> np.datetime64:
    try:
        return np.datetime64(stamp.decode(errors="replace"), "us")
    except ValueError:
        return np.datetime64("NaT")


def _places(
    text: TraceText, row: int, cells: Sequence[str], needed: Sequence[str], optional: Sequence[str]
) -> Mapping[str, int]:
    names = [cell.strip().lower() for cell in cells]
    for name in needed:
        if name.lower() not in names:
            near = [cells[names.index(match)] for match in get_close_matches(name.lower(), names, 1)]
            found = f"did you mean `{near[0].strip()}`" if near else f"found {','.join(cells).strip()[:80]!r}"
            step = f"name the columns {','.join(needed)}, with commas between"
            raise TraceError(text.file, f"is missing ({found})", step, row=row, column=name)
    return {name: names.index(name.lower()) for name in (*needed, *optional) if name.lower() in names}
