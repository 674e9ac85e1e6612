"""A profile file to the core's `ModelProfile`."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from orchestrator.core.profile import (
    Accelerator,
    ColdStart,
    DecodeTiming,
    EncodeTiming,
    HardwareClass,
    ModelProfile,
    PrefillTiming,
    SharedHost,
)
from orchestrator.profiles.fit import ItlPoint, decode_timing, prefill_timing
from orchestrator.profiles.format import ColdStartFacts, DecodeRow, HostFacts, ProfileFile, Row
from stages.types import Stage

R = TypeVar("R", bound=Row)
T = TypeVar("T")


def model_profile(file: ProfileFile, accelerators: Mapping[str, Accelerator]) -> ModelProfile:
    """Return what the core needs of a profile file."""
    decode = _decode(file, accelerators)
    encoder, language_model = map(_cold_start, (file.cold_start.encode, file.cold_start.language_model))
    errors = [row.error for row in (*file.encode.rows, *file.prefill.rows, *file.decode.rows)]
    return ModelProfile(
        model=file.model,
        kappa=file.kappa,
        image_tokens=file.image.tokens,
        embedding_bytes=file.image.embedding_bytes,
        image_kv_bytes=file.image.kv_bytes,
        image_px=file.image.px,
        image_tiles=file.image.tiles,
        tile_px=file.image.tile_px or 0,
        thumbnail=file.image.thumbnail,
        preprocess_s=file.image.preprocess_s,
        kv_bytes_per_token=file.language_model.kv_bytes_per_token,
        weights_bytes={
            Stage.ENCODE: file.encode.weights_bytes,
            Stage.PREFILL: file.language_model.weights_bytes,
            Stage.DECODE: file.language_model.weights_bytes,
        },
        chunk_tokens=file.language_model.chunk_tokens,
        encode=_encode(file),
        prefill=_prefill(file, decode),
        decode=decode,
        cold_start={Stage.ENCODE: encoder, Stage.PREFILL: language_model, Stage.DECODE: language_model},
        error=(min(low for low, _ in errors), max(high for _, high in errors)),
        source="; ".join(file.sources.values()),
        host=_host(file.host) if file.host else None,
    )


def itl_points(rows: Sequence[DecodeRow]) -> Mapping[HardwareClass, Sequence[ItlPoint]]:
    """Return the measured latencies by hardware class."""
    points: defaultdict[HardwareClass, list[ItlPoint]] = defaultdict(list)
    for row in rows:
        points[_class(row)] += [
            ItlPoint(sequences=sequences, context_tokens=row.context_tokens or 0, itl_s=itl_s)
            for sequences, itl_s in (row.itl_s or {}).items()
        ]
    return {where: each for where, each in points.items() if each}


def context_token_s(
    kv_bytes_per_token: int, where: HardwareClass, efficiency: float, accelerators: Mapping[str, Accelerator]
) -> float:
    """Return the seconds in which a step reads one token's KV cache."""
    return kv_bytes_per_token / (where.tp * accelerators[where.hardware].memory_bytes_per_s * efficiency)


def _encode(file: ProfileFile) -> Mapping[HardwareClass, EncodeTiming]:
    tiles = file.image.tiles
    measured = {
        _class(row): EncodeTiming(image_s=tiles * row.tile_s) for row in file.encode.rows if row.tile_s
    }
    return _with_derived(
        file.encode.rows, measured, lambda row, timing: EncodeTiming(image_s=timing.image_s / _speed(row))
    )


def _prefill(
    file: ProfileFile, decode: Mapping[HardwareClass, DecodeTiming]
) -> Mapping[HardwareClass, PrefillTiming]:
    """A step with hardly any token reads the weights as a decode step does."""
    measured = {
        _class(row): prefill_timing(
            tuple(row.tokens_per_s.items()), decode[_class(row)].step_s if _class(row) in decode else 0.0
        )
        for row in file.prefill.rows
        if row.tokens_per_s
    }
    return _with_derived(file.prefill.rows, measured, _faster_prefill)


def _faster_prefill(row: Row, timing: PrefillTiming) -> PrefillTiming:
    speed = _speed(row)
    return PrefillTiming(
        points=tuple((tokens, seconds / speed) for tokens, seconds in timing.points),
        floor_s=timing.floor_s / speed,
    )


def _decode(
    file: ProfileFile, accelerators: Mapping[str, Accelerator]
) -> Mapping[HardwareClass, DecodeTiming]:
    section, kv_bytes = file.decode, file.language_model.kv_bytes_per_token

    def reading_s(kv_bytes_per_token: int, where: HardwareClass) -> float:
        return context_token_s(kv_bytes_per_token, where, section.kv_efficiency, accelerators)

    def faster(row: Row, timing: DecodeTiming) -> DecodeTiming:
        return DecodeTiming(
            step_s=timing.step_s / _speed(row),
            sequence_s=timing.sequence_s / _speed(row),
            context_token_s=reading_s(kv_bytes, _class(row)),
        )

    measured = {
        where: decode_timing(
            points,
            context_token_s=reading_s(kv_bytes, where),
            measured_context_token_s=reading_s(section.measured_kv_bytes_per_token or kv_bytes, where),
        )
        for where, points in itl_points(section.rows).items()
    }
    return _with_derived(section.rows, measured, faster)


def _host(facts: HostFacts) -> SharedHost:
    hops = facts.worker_hop_s
    return SharedHost(
        cores=facts.cores,
        slice_s=facts.slice_s[1],
        seek=facts.seek[1],
        stolen=facts.stolen[1],
        request_s=facts.request_s[1],
        hop_s=facts.hop_s[1],
        event_s=facts.event_s[1],
        store_hop_s=facts.store_hop_s[1],
        store_write_s=facts.store_write_s[1],
        worker_hop_s={
            Stage.ENCODE: hops.encode[1],
            Stage.PREFILL: hops.prefill[1],
            Stage.DECODE: hops.decode[1],
        },
        client_request_s=facts.client_request_s[1],
        client_event_s=facts.client_event_s[1],
        late=facts.late[1],
        wake_s=facts.wake_s[1],
        store_wake_s=facts.store_wake_s[1],
        slowness=facts.slowness,
    )


def _with_derived(
    rows: Sequence[R], measured: Mapping[HardwareClass, T], derive: Callable[[R, T], T]
) -> Mapping[HardwareClass, T]:
    """Add the rows that are like another; that one stands before them."""
    timings = dict(measured)
    for row in rows:
        if row.like:
            timings[_class(row)] = derive(row, timings[HardwareClass(row.like.hardware, row.like.tp)])
    return timings


def _class(row: Row) -> HardwareClass:
    return HardwareClass(row.hardware, row.tp)


def _speed(row: Row) -> float:
    assert row.speed is not None
    return row.speed


def _cold_start(facts: ColdStartFacts) -> ColdStart:
    return ColdStart(node_s=facts.node_s, pull_s=facts.pull_s, load_s=facts.load_s)
