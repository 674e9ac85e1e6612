"""Request traces as Azure publishes them: CSV with a header."""

import warnings
from collections.abc import Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.trace_file import RawTrace, TraceError, TraceText
from orchestrator.simulator.trace_table import CORRECT, check_width, header, offset_s, parse_times, rows

_TIME, _IMAGES, _CONTEXT, _OUTPUT = "TIMESTAMP", "NumImages", "ContextTokens", "GeneratedTokens"
_COLUMNS = {"time_s": _TIME, "images": _IMAGES, "context_tokens": _CONTEXT, "output_tokens": _OUTPUT}
_TIME_CHARS = 40


def read_csv(text: TraceText) -> RawTrace:
    """Return the requests of a CSV file with a header, rows as they are.

    Columns: TIMESTAMP (ISO 8601), ContextTokens, GeneratedTokens and, if requests have any, NumImages; others
    are ignored. The Azure LLM inference traces of 2023 and the Azure LMM inference trace of 2025 are such
    files. Lines that are blank or begin with # are skipped.

    Raises:
        TraceError: A column is missing, or a cell is not a time or not a whole number.
    """
    places, skip = header(text, (_TIME, _CONTEXT, _OUTPUT), (_IMAGES,))
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


def _table(text: TraceText, places: Mapping[str, int], skip: int) -> NDArray[np.void]:
    """Return one record per request: bytes for the time and int64 for the counts."""
    kinds = [(name, f"S{_TIME_CHARS}" if name == _TIME else "i8") for name in places]
    lines, use = islice(text.lines(), skip, None), list(places.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are no rows is said below
        warnings.simplefilter("error", DeprecationWarning)  # 1.5 as a whole number
        try:
            table = np.loadtxt(lines, dtype=kinds, delimiter=",", quotechar='"', usecols=use, ndmin=1)
        except (ValueError, DeprecationWarning) as error:
            raise _bad_cell(text, places, skip, str(error)) from None
    if not len(table):
        raise TraceError(text.file, "there are no requests below the header", "give at least one row")
    return table


def _bad_cell(text: TraceText, places: Mapping[str, int], skip: int, reason: str) -> TraceError:
    """Find the first cell that is not what its column holds."""
    for row, cells in rows(text, skip):
        check_width(text, places, row, cells)
        for name, place in places.items():
            if name != _TIME and not _is_count(cells[place]):
                message = f"{cells[place].strip()[:40]!r} is not a whole number of 64 bits"
                return TraceError(text.file, message, CORRECT, row=row, column=name)
    return TraceError(text.file, f"is not a table of requests ({reason})", "correct the rows")


def _is_count(cell: str) -> bool:
    try:
        return "_" not in cell and abs(int(cell)) < 2**63
    except ValueError:
        return False


def _row_of(text: TraceText, skip: int, index: int) -> int:
    return next(islice(rows(text, skip), index, None))[0]


def _seconds(text: TraceText, skip: int, cells: NDArray[np.bytes_]) -> tuple[NDArray[np.float64], float]:
    """Return seconds since the earliest time, and the Unix time of that."""
    stamps = np.strings.strip(cells)
    moments, zone = parse_times(stamps)
    if len(unknown := np.flatnonzero(np.isnat(moments))):
        found = stamps[unknown[0]].decode(errors="replace")
        message = f"{found!r} is not a time such as 2024-10-16T08:36:32.709Z, or not of the first row's zone"
        raise TraceError(text.file, message, CORRECT, row=_row_of(text, skip, int(unknown[0])), column=_TIME)
    first = moments.min()
    return (moments - first) / np.timedelta64(1, "s"), float(first.astype(np.int64)) / 1e6 - offset_s(zone)
