"""From what a command or a policy names to a workload."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orchestrator.simulator.calibration import Calibration
from orchestrator.simulator.calibration_tables import Tables, read_calibration
from orchestrator.simulator.per_minute import PerMinute, read_per_minute, with_mix
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.traces import Notes, read_trace
from orchestrator.simulator.twin import trace_twin
from orchestrator.simulator.workload import Workload, spliced

TRACES = Path(__file__).resolve().parents[2] / "data" / "traces"
"""Where the shipped traces and tables lie in the repository."""

SHIPPED_WINDOW = TRACES / "azure_lmm_window_2024-10-16.csv"
SHIPPED_PER_MINUTE = TRACES / "azure_lmm_per_minute_2024-10-15_19.csv"

WARM_UP_S, DAY_S = 2 * 3_600.0, 86_400.0
"""A trace is spliced into a twin's day behind so much of it."""

WEEK_REQUESTS = 1_000_000  # of the released week of which the shipped counts are the first 4.5 days

_TABLES = {
    "window": "*window*.csv*",
    "images": "*numimages_pmf*.csv*",
    "context_by_images": "*context_by_images*.csv*",
    "tokens": "*token_quantiles*.csv*",
}
_MIX = "*5min_by_type*.csv*"


def load_workload(spec: str, *, seed: int) -> tuple[Workload, Notes]:
    """Return the workload that a specification names and what there is to know about it.

    Args:
        spec: `PATH` of a trace, see `read_trace`; `twin:PER_MINUTE` for the trace twin of a CSV with the
            columns timestamp and requests, by default the shipped one; `twin-week:PER_MINUTE` for the twin of
            seven days, of 1,000,000 requests if of the shipped counts; `splice:TRACE@PER_MINUTE` for a day of
            the twin in which a trace takes the place of what the twin has at that time. A mix
            (*5min_by_type*) is taken from the same folder as the counts if there is one. So are distributions
            (*window*, *numimages_pmf*, *context_by_images*, *token_quantiles*), and else the shipped ones.
        seed: Of the twin; traces do not depend on it.

    Raises:
        TraceError: A file is missing or cannot be used, with what to do.
    """
    kind, colon, path = spec.partition(":")
    if colon and kind == "splice":
        return _spliced(path, seed)
    if not colon or kind not in ("twin", "twin-week"):
        return read_trace(spec)
    file = Path(path) if path else SHIPPED_PER_MINUTE
    counts, calibration, notes = load_tables(file)
    if kind == "twin-week":
        counts = counts.week(WEEK_REQUESTS if _is_shipped(file) else None)
    return trace_twin(counts, calibration, np.random.default_rng(seed), _name(kind, file)), notes


def _spliced(paths: str, seed: int) -> tuple[Workload, Notes]:
    """Return a twin's day with a trace in it, so that control has settled before the trace begins."""
    trace, _, per_minute = paths.partition("@")
    window, notes = read_trace(trace)
    twin, twin_notes = load_workload(f"twin:{per_minute}", seed=seed)
    began_s = max(0.0, window.epoch_s - twin.epoch_s - WARM_UP_S)
    if WARM_UP_S + window.span_s > twin.span_s - began_s:
        began_s = 0.0
    day = twin.slice(began_s, min(twin.span_s, began_s + DAY_S))
    if WARM_UP_S + window.span_s > day.span_s:
        step = f"give counts of at least {(WARM_UP_S + window.span_s) / 3600:.1f} hours"
        raise TraceError(trace, "the trace does not fit into the twin behind its warm-up", step)
    return spliced(day, window, WARM_UP_S), (*notes, *twin_notes)


def load_tables(file: Path) -> tuple[PerMinute, Calibration, Notes]:
    """Return counts per minute with their mix, and the distributions beside them or else the shipped ones.

    Raises:
        TraceError: A file is missing or cannot be used, with what to do.
    """
    counts, notes = _counts(file)
    tables, table_notes = _tables(file)
    return counts, read_calibration(tables), (*notes, *table_notes)


def _counts(file: Path) -> tuple[PerMinute, Notes]:
    counts, notes = read_per_minute(file)
    mix = next(_beside(file, _MIX), None)
    if mix is None:
        share = f"no {_MIX} beside {file.name}: {counts.image_share[0]:.0%} of all requests have images"
        return counts, (*notes, share)
    counts, mix_notes = with_mix(counts, mix)
    return counts, (*notes, f"mix from {mix.name}", *mix_notes)


def _tables(file: Path) -> tuple[Tables, Notes]:
    found = {field: next(_beside(file, pattern), None) for field, pattern in _TABLES.items()}
    shipped = {field: next(_beside(SHIPPED_PER_MINUTE, pattern), None) for field, pattern in _TABLES.items()}
    used = {field: found[field] or shipped[field] for field in _TABLES}
    for field, table in used.items():
        if table is None:
            step = f"put one there, or run from a checkout that has {TRACES}"
            raise TraceError(file, f"there is no table {_TABLES[field]} beside it", step)
    notes = [f"{field.replace('_', ' ')} from {table.name}" for field, table in used.items() if table]
    return Tables(**{field: table for field, table in used.items() if table}), tuple(notes)


def _beside(file: Path, pattern: str) -> Iterator[Path]:
    return iter(sorted(other for other in file.parent.glob(pattern) if other != file))


def _is_shipped(file: Path) -> bool:
    return file.resolve() == SHIPPED_PER_MINUTE


def _name(kind: str, file: Path) -> str:
    return f"{kind}-{file.name.split('.')[0]}"
