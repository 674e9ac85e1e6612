"""Published request traces to workloads, with everything checked and every repair named."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulator.trace_csv import read_csv
from orchestrator.simulator.trace_file import RawTrace, TraceError, TraceText, read_text
from orchestrator.simulator.trace_json import read_json_lines
from orchestrator.simulator.workload import Workload

Notes = tuple[str, ...]
"""What was repaired or is worth knowing, one sentence each, for people."""

# Far above anything published (9,400 images, 2 million tokens): more is a broken row, not a request.
_MOST_IMAGES, _MOST_TOKENS = 1_000_000, 100_000_000
_LONGEST_S = 400 * 86_400.0


def read_trace(file: Path | str) -> tuple[Workload, Notes]:
    """Return the requests of a published trace, gzip or not, and what was repaired.

    Two formats, told by content: Azure's CSV (`read_csv`) and Mooncake's JSON lines (`read_json_lines`).
    Unsorted rows are sorted, equal times stay in the order of the file, zero tokens become one.

    Raises:
        TraceError: Anything else that is not a trace, with file, row, column and what to do.
    """
    text = read_text(file)
    raw = read_json_lines(text) if _is_json(text) else read_csv(text)
    _check(raw)
    context, output = np.maximum(raw.context_tokens, 1), np.maximum(raw.output_tokens, 1)
    order = np.argsort(raw.time_s, kind="stable")
    arrival_s = raw.time_s[order]
    workload = Workload(
        name=Path(file).name.split(".")[0],
        label="real",
        arrival_s=arrival_s,
        images=raw.images[order].astype(np.int32),
        context_tokens=context[order].astype(np.int32),
        output_tokens=output[order].astype(np.int32),
        span_s=_span_s(arrival_s),
        epoch_s=raw.epoch_s,
        prefix_blocks=raw.prefix_blocks.take(order) if raw.prefix_blocks else None,
    )
    return workload, (*text.notes, *_repairs(raw, arrival_s))


def _is_json(text: TraceText) -> bool:
    return next((line.lstrip()[:1] for line in text.lines() if line.strip()), "") == "{"


def _span_s(arrival_s: NDArray[np.float64]) -> float:
    """Take the trace to end one mean gap after its last arrival, so that repeating it keeps the rate."""
    last = float(arrival_s[-1])
    return last + last / (len(arrival_s) - 1) if len(arrival_s) > 1 else last


def _check(raw: RawTrace) -> None:
    limits = {"images": _MOST_IMAGES, "context_tokens": _MOST_TOKENS, "output_tokens": _MOST_TOKENS}
    for field, most in limits.items():
        counts = getattr(raw, field)
        wrong = np.flatnonzero((counts < 0) | (counts > most))
        if len(wrong):
            found = int(counts[wrong[0]])
            message = f"{found:,} is negative" if found < 0 else f"{found:,} is absurd, more than {most:,}"
            raise _at(raw, int(wrong[0]), field, message)
    if (span_s := np.ptp(raw.time_s)) > _LONGEST_S:
        far = np.argmax(np.abs(raw.time_s - np.median(raw.time_s)))
        raise _at(raw, int(far), "time_s", f"makes the trace {span_s / 86_400:,.0f} days long, more than 400")


def _at(raw: RawTrace, index: int, field: str, message: str) -> TraceError:
    row, column = raw.row_of(index), raw.columns[field]
    return TraceError(raw.file, message, "correct or delete the row", row=row, column=column)


def _repairs(raw: RawTrace, arrival_s: NDArray[np.float64]) -> Iterator[str]:
    if moved := int(np.count_nonzero(raw.time_s < np.maximum.accumulate(raw.time_s))):
        yield f"unsorted: sorted {moved:,} rows"
    if together := int(np.count_nonzero(arrival_s[1:] == arrival_s[:-1])):
        yield f"{together:,} requests arrive together with the one before: kept in the order of the file"
    for field in ("context_tokens", "output_tokens"):
        if zeros := int(np.count_nonzero(getattr(raw, field) == 0)):
            yield f"{raw.columns[field]} was 0 in {zeros:,} rows: taken as 1"
