"""Rounds of pressure tests to a profile file, with the spread between the rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import yaml

from orchestrator.core.profile import SharedHost
from orchestrator.profiles.format import ColdStartFacts, ImageFacts, LanguageModelFacts, ProfileFile
from orchestrator.profiles.pressure import Machine, Round, Row
from orchestrator.profiles.pressure_fit import Fit, fitted
from stages.types import Stage

_HEAD = "# Written by `tercet profile measure`. data/profiles/SOURCES.md explains the format.\n"
_PROMPTS = (1, 8, 64)
_CONTEXTS = (16, 256)
_BATCHES = (1, 8, 32)
_DIGITS = 4
_HOST_FIGURES = (
    *(
        "slice_s",
        "seek",
        "stolen",
        "request_s",
        "hop_s",
        "event_s",
        "store_hop_s",
        "store_write_s",
        "client_request_s",
    ),
    *("client_event_s", "late", "wake_s", "store_wake_s"),
)
"""All but the cores, the workers' hops and the slowness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a running service.

    Attributes:
        machine: That suits all rounds together, and `machines` of each.
        hardware: Which hardware class it runs on; one accelerator a replica.
        starts_s: Seconds from a process's start to the replica's readiness, by stage, each several times.
        how: Says where, when and how.
        date: YYYY-MM-DD.
    """

    rounds: Sequence[Round]
    machine: Machine
    machines: Sequence[Machine]
    hardware: str
    chunk_tokens: int
    starts_s: Mapping[Stage, Sequence[float]]
    how: str
    date: str


def measured_profile(base: ProfileFile, found: Measured) -> dict[str, Any]:
    """Return a profile file's keys: the model's facts from `base`, its times from the measurement."""
    each = [
        fitted([one], found.chunk_tokens, machine)
        for one, machine in zip(found.rounds, found.machines, strict=True)
    ]
    taken = fitted(found.rounds, found.chunk_tokens, found.machine)
    spread = _Spreads(taken, each)
    return {
        "apiVersion": base.apiVersion,
        "model": base.model,
        "aliases": list(base.aliases),
        "kappa": base.kappa,
        "measured": True,
        "date": found.date,
        "sources": {"measured": found.how, "model": base.sources[base.image.source]},
        "image": _image(base.image),
        "language_model": _language_model(base.language_model, found.chunk_tokens),
        "encode": {
            "weights_bytes": base.encode.weights_bytes,
            "rows": _encode_rows(spread, found.hardware, base.image.tiles),
        },
        "prefill": {"rows": _prefill_rows(spread, found.hardware)},
        "decode": {"rows": _decode_rows(spread, found.hardware)},
        "cold_start": _cold_starts(base, found),
        "host": _host(spread, taken.host),
        "frontier": _frontier(spread, [row for one in found.rounds for row in one.mixed[-1].rows]),
    }


def profile_text(keys: Mapping[str, Any]) -> str:
    """Return a profile file's keys as its text."""
    return _HEAD + yaml.safe_dump(keys, sort_keys=False, width=118, default_flow_style=None)


class _Spreads:
    def __init__(self, taken: Fit, fits: Sequence[Fit]) -> None:
        self.taken = taken
        self._fits = fits

    def of(self, figure: Callable[[Fit], float]) -> list[float]:
        """Return (lowest, taken, highest)."""
        taken = figure(self.taken)
        each = [figure(fit) for fit in self._fits]
        return [_round(min(taken, *each)), _round(taken), _round(max(taken, *each))]

    def error(self, figure: Callable[[Fit], float]) -> list[float]:
        """Return the factors on the taken figure between which all rounds are."""
        low, taken, high = self.of(figure)
        return [_round(low / taken), _round(high / taken)] if taken else [1.0, 1.0]


def _row(hardware: str, figures: Mapping[str, Any], error: Sequence[float]) -> dict[str, Any]:
    return {"hardware": hardware, "tp": 1, **figures, "error": list(error), "source": "measured"}


def _encode_rows(spread: _Spreads, hardware: str, tiles: int) -> list[dict[str, Any]]:
    figures = {"tile_s": _round(spread.taken.stages.image_s / tiles)}
    return [_row(hardware, figures, spread.error(lambda fit: fit.stages.image_s))]


def _prefill_rows(spread: _Spreads, hardware: str) -> list[dict[str, Any]]:
    figures = {"tokens_per_s": {n: _round(n / spread.taken.chunk_s(n)) for n in _PROMPTS}}
    return [_row(hardware, figures, spread.error(lambda fit: fit.chunk_s(_PROMPTS[-1])))]


def _decode_rows(spread: _Spreads, hardware: str) -> list[dict[str, Any]]:
    """Return a row for each context; with two of them, all three terms of a step can be fitted again."""
    rows = []
    for context in _CONTEXTS:
        itl_s = {n: _round(spread.taken.itl_s(n, context), 6) for n in _BATCHES}
        error = spread.error(partial(Fit.itl_s, sequences=_BATCHES[1], context_tokens=context))
        rows.append(_row(hardware, {"context_tokens": context, "itl_s": itl_s}, error))
    return rows


def _host(spread: _Spreads, host: SharedHost) -> dict[str, Any]:
    def field(name: str) -> list[float]:
        return spread.of(lambda fit: float(getattr(fit.host, name)))

    return {
        "cores": host.cores,
        **{name: field(name) for name in _HOST_FIGURES},
        "worker_hop_s": {str(stage): spread.of(partial(Fit.hop_s, stage=stage)) for stage in Stage},
        "slowness": [_round(factor) for factor in host.slowness],
        "source": "measured",
    }


def _frontier(spread: _Spreads, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how many decode replicas one prefill replica feeds, by the sequences in their batches."""
    prompt = round(fmean(row.prompt_tokens for row in rows))
    output = max(1, round(fmean(row.output_tokens for row in rows)))
    context = prompt + output // 2

    def ratio(fit: Fit, *, sequences: int) -> float:
        return fit.decode_s(output - 1, sequences, context) / fit.prefill_s(prompt)

    return [
        {
            "prompt_tokens": prompt,
            "output_tokens": output,
            "sequences": sequences,
            "decode_per_prefill": spread.of(partial(ratio, sequences=sequences)),
        }
        for sequences in _BATCHES
    ]


def _image(image: ImageFacts) -> dict[str, Any]:
    facts = {name: getattr(image, name) for name in ("px", "tiles", "tokens", "embedding_bytes", "kv_bytes")}
    if image.tile_px:
        facts |= {"tile_px": image.tile_px, "thumbnail": image.thumbnail}
    # Preparing an image was measured with encoding it.
    return {**facts, "preprocess_s": 0.0, "source": "model"}


def _language_model(facts: LanguageModelFacts, chunk_tokens: int) -> dict[str, Any]:
    return {
        "weights_bytes": facts.weights_bytes,
        "kv_bytes_per_token": facts.kv_bytes_per_token,
        "chunk_tokens": chunk_tokens,
        "source": "model",
    }


def _cold_starts(base: ProfileFile, found: Measured) -> dict[str, Any]:
    starts = found.starts_s
    language_model = [*starts.get(Stage.PREFILL, ()), *starts.get(Stage.DECODE, ())]
    return {
        "encode": _cold_start(starts[Stage.ENCODE]) if starts else _kept(base, base.cold_start.encode),
        "language_model": (
            _cold_start(language_model) if starts else _kept(base, base.cold_start.language_model)
        ),
    }


def _cold_start(seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "node_s": [0.0, 0.0],
        "pull_s": [0.0, 0.0],
        "load_s": [_round(min(seconds)), _round(max(seconds))],
        "source": "measured",
    }


def _kept(base: ProfileFile, facts: ColdStartFacts) -> dict[str, Any]:
    spans = {name: list(getattr(facts, name)) for name in ("node_s", "pull_s", "load_s")}
    return {**spans, "source": f"not measured: {base.sources.get(facts.source, facts.source)}"}


def _round(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")
