"""What `predict` leaves in docs/results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.clocked import Pace
from bench.predict_compare import Compared
from orchestrator.profiles.measured import profile_text

_HEAD = """\
# Predicting live loads

Written by `python -m bench predict`, which measures a profile of the `tiny` stack in rounds of pressure
tests, runs three loads after each round, and simulates the same requests. The simulator knows the profile
alone: nothing was fitted to these loads.

- {date}; {how}.
- Saturated rate of the mix: {rate:.1f} requests/s with {concurrency} in progress. Loads: {repeats} runs of
  {duration:g} s at each fraction of it; Poisson arrivals; 0, 1 or 2 images, 45 to 104 words, 4 to 48 output
  tokens at most.
- The repeats of a load have the same arrivals and sizes, and other images and words. A live value is the
  median over the repeats; a ratio is the median of simulated over live, run by run, each run simulated with
  {seeds} seeds.
- *Noise*: largest live repeat over the smallest, less 1. No prediction can be surer than that.
- {met} of {all} figures keep to their goals.

{table}

The profile is [live-profile.yaml](live-profile.yaml), the figures are in [live.json](live.json).

## Why figures are missed

- **Noise.** Two cores, shared with whatever else the machine does. Where live repeats of one load differ by
  more than the goal, a hit or a miss of that goal says little.
- **85 %.** Near saturation a wait grows like 1 / (1 - load): one per cent more or less of capacity is six per
  cent of the wait, and neighbours take a share that changes from minute to minute.
- **TPOT.** Completions have some 20 tokens and last tens of milliseconds. A step of one sequence takes longer
  than the median TPOT: tokens that wait for a process to get a core come in one go. So TPOT here is a figure
  of who is scheduled when. The model has one line for each core, slices of one length and no threads within a
  process; Linux weighs what each process has used before. Times to first token, sums of many such waits, come
  out better than differences between two events.
- **Throughput** is easy: below saturation a service answers what it is asked.
"""

_CLOCKED = """\
# Predicting live loads at an accelerator's pace

Written by `python -m bench predict-clocked`. A stack serves `tiny` through its gateway, Redis, two encoders,
one prefill and two decodes, all as `tercet up` runs them; but a step of an engine computes and then sleeps
until it has taken as long as one of a larger model (`bench/clocked.py`):

| | |
|---|---|
| an image | {image_ms:g} ms |
| a chunk of prompts | {floor_ms:g} ms with hardly a token in it, {chunk_ms:g} ms with 64, linear between |
| a decode step | {step_ms:g} ms, and {sequence_ms:g} ms a sequence, {context_us:g} µs a token of KV |

The simulator knows these times. It is told nothing of the path between the engines, and nothing was fitted.
So what is held against live loads is what [results.md](../results.md) rests on: queues, routing, chunks and
batches, without the contest for cores of [live.md](live.md).

- {date}; clients on the same cores.
- The busiest stage would never be idle at {rate:.1f} requests/s of the mix. Loads: {repeats} runs of
  {duration:g} s at each fraction of it. The mix, the medians, the ratios and the noise are those of
  [live.md](live.md); {seeds} seeds.
- {met} of {all} figures keep to their goals.

{table}
"""


def record_clocked(folder: Path, rows: Sequence[Compared], pace: Pace, facts: Mapping[str, Any]) -> None:
    """Write the table for people."""
    text = _CLOCKED.format(
        date=datetime.now(UTC).date().isoformat(),
        image_ms=1e3 * pace.image_s,
        chunk_ms=1e3 * pace.prefill.step_s(64),
        floor_ms=1e3 * pace.prefill.floor_s,
        step_ms=1e3 * pace.decode.step_s,
        sequence_ms=1e3 * pace.decode.sequence_s,
        context_us=1e6 * pace.decode.context_token_s,
        met=sum(row.met for row in rows),
        all=len(rows),
        table=table(rows),
        **facts,
    )
    (folder / "clocked.md").write_text(text)


def record(
    folder: Path,
    rows: Sequence[Compared],
    keys: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write the table for people, the figures for programs, and the profile."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _HEAD.format(
        date=keys["date"],
        how=keys["sources"]["measured"],
        met=sum(row.met for row in rows),
        all=len(rows),
        table=table(rows),
        **facts,
    )
    (folder / "live.md").write_text(text)
    (folder / "live.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (folder / "live-profile.yaml").write_text(profile_text(keys))


def table(rows: Sequence[Compared]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| load | figure | live | simulated | ratio [lowest … highest] | noise | goal | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row.spread
        ratio = (
            f"{row.ratio:+.3f} [{low:+.3f} … {high:+.3f}]"
            if row.is_share
            else f"{row.ratio:.2f} [{low:.2f} … {high:.2f}]"
        )
        verdict = "met" if row.met else "**missed**"
        values = f"{_value(row, row.live)} | {_value(row, row.simulated)} | {ratio} | {row.noise:.0%}"
        lines.append(f"| {row.load:.0%} | {row.figure} | {values} | ±{row.goal:.0%} | {verdict} |")
    return "\n".join(lines)


def _value(row: Compared, value: float) -> str:
    if row.is_share:
        return f"{value:.3f}"
    return f"{value:,.0f} tok/s" if row.figure == "throughput" else f"{1e3 * value:.3g} ms"
