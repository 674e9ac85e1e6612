"""Request traces as Azure publishes them: CSV with a header."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.trace_file import RawTrace, TraceError, TraceText

_TIME, _IMAGES, _CONTEXT, _OUTPUT = "TIMESTAMP", "NumImages", "ContextTokens", "GeneratedTokens"
_NEEDED = (_TIME, _CONTEXT, _OUTPUT)
_COLUMNS = {"time_s": _TIME, "images": _IMAGES, "context_tokens": _CONTEXT, "output_tokens": _OUTPUT}
_TIME_CHARS = 40
_ZONE_AT = len("YYYY-MM-DDTHH:MM:SS")
_CORRECT = "correct or delete the row"


def read_csv(text: TraceText) -> RawTrace:
    """Return the requests of a CSV file with a header, rows as they are.

    Columns: TIMESTAMP (ISO 8601), ContextTokens, GeneratedTokens and, if requests have any, NumImages; others
    are ignored. The Azure LLM inference traces of 2023 and the Azure LMM inference trace of 2025 are such
    files. Lines that are blank or begin with # are skipped.

    Raises:
        TraceError: A column is missing, or a cell is not a time or not a whole number.
    """
    places, skip = _header(text)
    table = _table(text, places, skip)
    time_s, epoch_s = _seconds(text, skip, table[_TIME])
    return RawTrace(
        file=text.file,
        columns=_COLUMNS,
        row_of=lambda index: _row_of(text, skip, index),
        time_s=time_s,
        epoch_s=epoch_s,
        images=table[_IMAGES] if _IMAGES in places else np.zeros(len(table), dtype=np.int64),
        context_tokens=table[_CONTEXT],
        output_tokens=table[_OUTPUT],
    )


def _header(text: TraceText) -> tuple[Mapping[str, int], int]:
    """Return where our columns stand and how many lines precede the rows."""
    for number, line in enumerate(text.lines(), start=1):
        if line.strip() and not line.startswith("#"):
            return _places(text, number, next(csv.reader([line]))), number
    raise TraceError(text.file, "there is no header", f"begin with the line {','.join(_NEEDED)}")


def _places(text: TraceText, row: int, cells: Sequence[str]) -> Mapping[str, int]:
    names = [cell.strip().lower() for cell in cells]
    for name in _NEEDED:
        if name.lower() not in names:
            near = [cells[names.index(match)] for match in get_close_matches(name.lower(), names, 1)]
            found = f"did you mean `{near[0].strip()}`" if near else f"found {','.join(cells).strip()[:80]!r}"
            step = f"name the columns {', '.join(_NEEDED)}"
            raise TraceError(text.file, f"is missing ({found})", step, row=row, column=name)
    return {name: names.index(name.lower()) for name in (*_NEEDED, _IMAGES) if name.lower() in names}


def _table(text: TraceText, places: Mapping[str, int], skip: int) -> NDArray[np.void]:
    """Return one record per request: bytes for the time and int64 for the counts."""
    kinds = [(name, f"S{_TIME_CHARS}" if name == _TIME else "i8") for name in places]
    lines = islice(text.lines(), skip, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are no rows is said below
        warnings.simplefilter("error", DeprecationWarning)  # 1.5 as a whole number
        try:
            table = np.loadtxt(
                lines, dtype=kinds, delimiter=",", quotechar='"', usecols=list(places.values()), ndmin=1
            )
        except (ValueError, DeprecationWarning) as error:
            raise _bad_cell(text, places, skip, str(error)) from None
    if not len(table):
        raise TraceError(text.file, "there are no requests below the header", "give at least one row")
    return table


def _bad_cell(text: TraceText, places: Mapping[str, int], skip: int, reason: str) -> TraceError:
    """Find the first cell that is not what its column holds."""
    for row, cells in _rows(text, skip):
        for name, place in places.items():
            if place >= len(cells):
                message = f"is missing, for the row has only {len(cells)} cells"
                return TraceError(text.file, message, "complete or delete the row", row=row, column=name)
            if name != _TIME and not _is_count(cells[place]):
                message = f"{cells[place].strip()[:40]!r} is not a whole number of 64 bits"
                return TraceError(text.file, message, _CORRECT, row=row, column=name)
    return TraceError(text.file, f"is not a table of requests ({reason})", "correct the rows")


def _is_count(cell: str) -> bool:
    try:
        return "_" not in cell and abs(int(cell)) < 2**63
    except ValueError:
        return False


def _rows(text: TraceText, skip: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row that `loadtxt` sees."""
    reader = csv.reader(islice(text.lines(), skip, None))
    for cells in reader:
        if cells and not cells[0].startswith("#"):
            yield skip + reader.line_num, cells


def _row_of(text: TraceText, skip: int, index: int) -> int:
    return next(islice(_rows(text, skip), index, None))[0]


def _seconds(text: TraceText, skip: int, cells: NDArray[np.bytes_]) -> tuple[NDArray[np.float64], float]:
    """Return seconds since the earliest time, and the Unix time of that."""
    stamps = np.strings.strip(cells)
    zone = _zone(stamps[0].decode(errors="replace"))
    local = np.strings.replace(stamps, zone.encode(), b"") if zone else stamps
    moments = _moments(local)
    if len(unknown := np.flatnonzero(np.isnat(moments))):
        found = stamps[unknown[0]].decode(errors="replace")
        message = f"{found!r} is not a time such as 2024-10-16T08:36:32.709Z, or not of the first row's zone"
        row = _row_of(text, skip, int(unknown[0]))
        raise TraceError(text.file, message, _CORRECT, row=row, column=_TIME)
    since = (moments - moments.min()) / np.timedelta64(1, "s")
    return since, float(moments.min().astype(np.int64)) / 1e6 - _offset_s(zone)


def _zone(stamp: str) -> str:
    """Return what follows the digits of a time: "", "Z", "+00:00", …"""
    tail = stamp[_ZONE_AT:]
    return tail.lstrip(".0123456789 ")


def _offset_s(zone: str) -> float:
    offset = datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").utcoffset()
    return offset.total_seconds() if offset else 0.0


def _moments(stamps: NDArray[np.bytes_]) -> NDArray[np.datetime64]:
    """Return each ISO 8601 time in microseconds, NaT where it is none."""
    # numpy would take a number for a year and "now" for a time.
    dated = np.strings.find(stamps, b"-") == len("YYYY")
    known = np.where(dated, stamps, b"NaT")
    try:
        return known.astype("datetime64[us]")
    except ValueError:
        return np.array([_moment(stamp) for stamp in known], dtype="datetime64[us]")


def _moment(stamp: bytes) -> np.datetime64:
    try:
        return np.datetime64(stamp.decode(errors="replace"), "us")
    except ValueError:
        return np.datetime64("NaT")
