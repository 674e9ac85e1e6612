"""Rounds of pressure tests to a profile file, with the spread between the rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import yaml

from orchestrator.core.profile import DecodeTiming, SharedHost
from orchestrator.profiles.format import ImageFacts, ProfileFile
from orchestrator.profiles.pressure import Machine, Pressure, Row, StageCosts, shared_host, stage_costs
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
class Round:
    """The tests of one round.

    Attributes:
        tests: Of one shape each.
        mixed: Of the mix, at growing concurrency; the last one saturates.
    """

    tests: Sequence[Pressure]
    mixed: Sequence[Pressure]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """All constants."""

    stages: StageCosts
    host: SharedHost
    chunk_tokens: int

    def chunk_s(self, tokens: int) -> float:
        return self.stages.prefill_step_s + tokens * self.stages.prefill_token_s

    def hop_s(self, stage: Stage) -> float:
        return self.host.worker_hop_s[stage]

    def prefill_s(self, tokens: int) -> float:
        steps = -(-tokens // self.chunk_tokens)
        work_s = steps * self.stages.prefill_step_s + tokens * self.stages.prefill_token_s
        return self.host.worker_hop_s[Stage.PREFILL] + work_s

    def decode_s(self, steps: int, sequences: int, context_tokens: int) -> float:
        """Return the seconds of a decode replica for one completion, of so many at once."""
        each_s = self.itl_s(sequences, context_tokens) / sequences
        return self.host.worker_hop_s[Stage.DECODE] + steps * each_s

    def itl_s(self, sequences: int, context_tokens: int) -> float:
        costs = self.stages
        timing = DecodeTiming(
            step_s=costs.decode_step_s,
            sequence_s=costs.sequence_s,
            context_token_s=costs.context_token_s,
        )
        return timing.itl_s(sequences, sequences * context_tokens)


def measured_profile(base: ProfileFile, found: Measured) -> dict[str, Any]:
    """Return a profile file's keys: the model's facts from `base`, its times from the measurement."""
    fits = [
        _fit([each], found.chunk_tokens, machine)
        for each, machine in zip(found.rounds, found.machines, strict=True)
    ]
    taken = _fit(found.rounds, found.chunk_tokens, found.machine)
    spread = _Spreads(taken, fits)
    row = {"hardware": found.hardware, "tp": 1, "source": "measured"}
    starts = {stage: _cold_start(found.starts_s[stage]) for stage in Stage if stage in found.starts_s}
    return {
        "apiVersion": base.apiVersion,
        "model": base.model,
        "aliases": list(base.aliases),
        "kappa": base.kappa,
        "measured": True,
        "date": found.date,
        "sources": {"measured": found.how, "model": base.sources[base.image.source]},
        "image": _image(base.image),
        "language_model": {
            "weights_bytes": base.language_model.weights_bytes,
            "kv_bytes_per_token": base.language_model.kv_bytes_per_token,
            "chunk_tokens": found.chunk_tokens,
            "source": "model",
        },
        "encode": {
            "weights_bytes": base.encode.weights_bytes,
            "rows": [
                row
                | {
                    "tile_s": _round(taken.stages.image_s / base.image.tiles),
                    "error": spread.error(lambda fit: fit.stages.image_s),
                }
            ],
        },
        "prefill": {
            "rows": [
                row
                | {
                    "tokens_per_s": {n: _round(n / taken.chunk_s(n)) for n in _PROMPTS},
                    "error": spread.error(lambda fit: fit.chunk_s(_PROMPTS[-1])),
                }
            ]
        },
        "decode": {
            "rows": [
                row
                | {
                    "context_tokens": context,
                    "itl_s": {n: _round(taken.itl_s(n, context), 6) for n in _BATCHES},
                    "error": spread.error(partial(_Fit.itl_s, sequences=_BATCHES[1], context_tokens=context)),
                }
                for context in _CONTEXTS
            ]
        },
        "cold_start": {
            "encode": starts.get(Stage.ENCODE) or _kept(base, "encode"),
            "language_model": starts.get(Stage.PREFILL) or _kept(base, "language_model"),
        },
        "host": _host(spread, taken),
        "frontier": _frontier(spread, [row for each in found.rounds for row in each.mixed[-1].rows]),
    }


def profile_text(keys: Mapping[str, Any]) -> str:
    """Return a profile file's keys as its text."""
    return _HEAD + yaml.safe_dump(keys, sort_keys=False, width=118, default_flow_style=None)


class _Spreads:
    def __init__(self, taken: _Fit, fits: Sequence[_Fit]) -> None:
        self._taken = taken
        self._fits = fits

    def of(self, figure: Callable[[_Fit], float]) -> list[float]:
        """Return (lowest, taken, highest)."""
        taken = figure(self._taken)
        each = [figure(fit) for fit in self._fits]
        return [_round(min(taken, *each)), _round(taken), _round(max(taken, *each))]

    def error(self, figure: Callable[[_Fit], float]) -> list[float]:
        """Return the factors on the taken figure between which all rounds are."""
        low, taken, high = self.of(figure)
        return [_round(low / taken), _round(high / taken)] if taken else [1.0, 1.0]


def _host(spread: _Spreads, taken: _Fit) -> dict[str, Any]:
    def field(name: str) -> list[float]:
        return spread.of(lambda fit: float(getattr(fit.host, name)))

    hops = {str(stage): spread.of(partial(_Fit.hop_s, stage=stage)) for stage in Stage}
    return {
        "cores": taken.host.cores,
        **{name: field(name) for name in _HOST_FIGURES},
        "worker_hop_s": hops,
        "slowness": [_round(factor) for factor in taken.host.slowness],
        "source": "measured",
    }


def _frontier(spread: _Spreads, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how many decode replicas one prefill replica feeds, by the sequences in their batches."""
    prompt = round(fmean(row.prompt_tokens for row in rows))
    output = max(1, round(fmean(row.output_tokens for row in rows)))
    context = prompt + output // 2

    def ratio(fit: _Fit, *, sequences: int) -> float:
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


def _fit(rounds: Sequence[Round], chunk_tokens: int, machine: Machine) -> _Fit:
    tests = [test for each in rounds for test in each.tests]
    costs, _ = stage_costs(tests, chunk_tokens)
    return _Fit(stages=costs, host=shared_host(tests, machine, chunk_tokens), chunk_tokens=chunk_tokens)


def _image(image: ImageFacts) -> dict[str, Any]:
    return {
        "px": image.px,
        "tiles": image.tiles,
        "tokens": image.tokens,
        "embedding_bytes": image.embedding_bytes,
        "kv_bytes": image.kv_bytes,
        # Preparing an image was measured with encoding it.
        "preprocess_s": 0.0,
        "source": "model",
    }


def _cold_start(seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "node_s": [0.0, 0.0],
        "pull_s": [0.0, 0.0],
        "load_s": [_round(min(seconds)), _round(max(seconds))],
        "source": "measured",
    }


def _kept(base: ProfileFile, key: str) -> dict[str, Any]:
    facts = getattr(base.cold_start, key)
    spans = {name: list(getattr(facts, name)) for name in ("node_s", "pull_s", "load_s")}
    return {**spans, "source": f"not measured: {base.sources.get(facts.source, facts.source)}"}


def _round(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")
