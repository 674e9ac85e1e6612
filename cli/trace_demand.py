"""The mean demand in a trace of requests."""

import csv
from datetime import datetime
from pathlib import Path

from orchestrator.core.stage_work import Demand

TOKENS_IN_AN_IMAGE = 576
"""By which ContextTokens of the Azure LMM trace grow with each image; the rest is text."""

TEXT_TOKENS_AT_LEAST = 32

_COLUMNS = ("TIMESTAMP", "NumImages", "ContextTokens", "GeneratedTokens")
_Row = tuple[float, int, int, int]


def read_demand(path: Path) -> Demand:
    """Return the mean demand of a CSV file with the columns of the Azure LMM trace; others are ignored.

    Raises:
        ValueError: A column is missing, a row is not of its types, or all requests come at one moment.
        OSError: It cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: there is no column {', '.join(missing)}")
        rows = [_row(path, reader.line_num, row) for row in reader]
    times = [row[0] for row in rows]
    if not rows or min(times) == max(times):
        raise ValueError(f"{path}: a rate needs requests at two moments at least")
    return _mean(rows, max(times) - min(times))


def _mean(rows: list[_Row], span_s: float) -> Demand:
    text_tokens = [
        max(TEXT_TOKENS_AT_LEAST, context - TOKENS_IN_AN_IMAGE * images) for _, images, context, _ in rows
    ]
    return Demand(
        requests_per_s=len(rows) / span_s,
        images=sum(images for _, images, _, _ in rows) / len(rows),
        image_share=sum(images > 0 for _, images, _, _ in rows) / len(rows),
        text_tokens=sum(text_tokens) / len(rows),
        output_tokens=max(1.0, sum(output for *_, output in rows) / len(rows)),
    )


def _row(path: Path, line: int, row: dict[str, str]) -> _Row:
    try:
        counts = [int(row[column]) for column in _COLUMNS[1:]]
        at_s = datetime.fromisoformat(row["TIMESTAMP"]).timestamp()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}:{line}: {error}") from error
    if min(counts) < 0:
        raise ValueError(f"{path}:{line}: a count is negative")
    return (at_s, counts[0], counts[1], counts[2])
