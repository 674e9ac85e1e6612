"""`tercet emulate`: an engine server that computes nothing, in a profile's time."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from cli.emulated import EmulatedProcess, ModelTimes
from cli.refuse import MISTAKEN, refuse
from orchestrator.core.capacity import kv_capacity_tokens
from orchestrator.core.profile import HardwareClass, ModelProfile
from orchestrator.profiles import NoProfileError, find_profile, load_accelerators, load_links, load_profile
from orchestrator.yaml_file import FileError
from stages.emulator.config import EmulatorConfig, Kind, Role
from stages.emulator.faults import Faults
from stages.types import Stage

_TYPICAL = EmulatorConfig(role=Role.AGGREGATED)
_STAGES: Mapping[Role, tuple[Stage, ...]] = {
    Role.ENCODE: (Stage.ENCODE,),
    Role.PREFILL: (Stage.PREFILL,),
    Role.DECODE: (Stage.DECODE,),
    Role.AGGREGATED: (Stage.PREFILL, Stage.DECODE),
}
"""Whose timing a role must have. An image takes no time where a class has no timing for it."""


def emulate_command(
    stage: Annotated[Role, typer.Option(help="What it does: one stage, or all of them.")],
    engine: Annotated[Kind, typer.Option(help="Whose wire format it speaks.")] = Kind.VLLM,
    engine_version: Annotated[
        str, typer.Option(help="Which release of it; the one that Tercet is tested with by default.")
    ] = "",
    model: Annotated[str, typer.Option(help="Name under which it serves.")] = _TYPICAL.model,
    profile: Annotated[
        str | None,
        typer.Option(help="Model or file of a profile: how long steps take; else no time."),
    ] = None,
    hardware: Annotated[
        str, typer.Option(help="Class of the profile, such as h100x4; its first by default.")
    ] = "",
    link: Annotated[str, typer.Option(help="Level of data/links.yaml that KV caches go through.")] = "rack",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 0,
    side_host: Annotated[
        str, typer.Option(help="Where decode engines reach the side channel; --host by default.")
    ] = "",
    side_port: Annotated[int, typer.Option(help="Its port; 0 takes a free one.", min=0, max=65535)] = 0,
    speed_up: Annotated[float, typer.Option(help="Divides the profile's times.")] = 1.0,
    max_model_len: Annotated[
        int, typer.Option(help="Tokens of a request at most.", min=2)
    ] = _TYPICAL.max_model_len,
    max_seqs: Annotated[int, typer.Option(help="Requests in a batch at most.", min=1)] = _TYPICAL.max_seqs,
    block_size: Annotated[int, typer.Option(help="Tokens in a KV block.", min=1)] = _TYPICAL.block_size,
    blocks: Annotated[
        int, typer.Option(help="KV blocks; 0: as many as fit by the profile, 8192 without one.", min=0)
    ] = 0,
    image_tokens: Annotated[int, typer.Option(help="Of an image; 0 counts by its size.", min=0)] = 0,
    limit: Annotated[
        list[str] | None, typer.Option(help="Media in a request at most, such as video=1; repeatable.")
    ] = None,
    http_media: Annotated[bool, typer.Option(help="Take http(s) media URLs, without fetching them.")] = False,
    eos_every: Annotated[
        int, typer.Option(help="One token in so many ends an answer; 0: max_tokens does.", min=0)
    ] = 0,
    ec_dir: Annotated[Path, typer.Option(help="Folder of embeddings that encoders share.")] = Path(
        _TYPICAL.ec_dir
    ),
    lease_s: Annotated[float, typer.Option(help="For so long a KV cache waits.", min=0.0)] = _TYPICAL.lease_s,
    handshake_s: Annotated[
        float, typer.Option(help="Tries to reach a side channel for so long.", min=0.0)
    ] = _TYPICAL.handshake_s,
    fault: Annotated[
        list[str] | None, typer.Option(help="Such as slow=3, hang=true, error_rate=0.1; repeatable.")
    ] = None,
    language_only: Annotated[
        bool, typer.Option(help="Have media encoded by SGLang's encoders, of which it keeps a list.")
    ] = False,
    encoder_port: Annotated[
        int, typer.Option(help="Of that list; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    role_switch: Annotated[
        bool, typer.Option(help="Let SGLang's prefill become decode and back: --enable-pd-role-switch.")
    ] = False,
    scale_out: Annotated[bool, typer.Option(help="Tokens in, tokens out: vLLM's --enable-scale-out.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as JSON.")] = False,
) -> None:
    """Serve like one engine until Ctrl-C: its wire format, batching, KV cache, metrics and faults."""
    times, kv_tokens, chunk_tokens = _times(profile, stage, hardware, link)
    try:
        config = EmulatorConfig(
            role=stage,
            kind=engine,
            model=model,
            version=engine_version,
            max_model_len=max_model_len,
            block_size=block_size,
            blocks=blocks or (kv_tokens // block_size if kv_tokens else _TYPICAL.blocks),
            max_seqs=max_seqs,
            chunk_tokens=chunk_tokens or _TYPICAL.chunk_tokens,
            image_tokens=image_tokens,
            media_limits=_TYPICAL.media_limits | _limits(limit or ()),
            http_media=http_media,
            eos_every=eos_every,
            ec_dir=str(ec_dir.resolve()),
            side_host=side_host or host,
            side_port=side_port,
            lease_s=lease_s,
            handshake_s=handshake_s,
            language_only=language_only,
            encoder_port=encoder_port,
            role_switch=role_switch,
            scale_out=scale_out,
            speed_up=speed_up,
        )
        faults = _faults(fault or ())
    except ValueError as error:
        refuse(str(error), MISTAKEN)
    _become(EmulatedProcess(config=config, times=times, faults=faults, host=host, port=port, as_json=as_json))


def _become(process: EmulatedProcess) -> NoReturn:
    """Go on as a process that has loaded nothing but the engine: a laptop is to hold fifty."""
    told = msgspec.json.encode(process).decode()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "cli.emulated", told])  # noqa: S606


def _times(profile: str | None, role: Role, hardware: str, link: str) -> tuple[ModelTimes, int, int]:
    """Return what a profile says: times, KV positions that fit, prompt tokens of a step; 0 without one."""
    if profile is None:
        if hardware:
            refuse("--hardware is a class of a profile; name one with --profile", MISTAKEN)
        return ModelTimes(), 0, 0
    try:
        found = load_profile(profile) if Path(profile).is_file() else find_profile(profile)
        where = _where(found, role, hardware)
        links = load_links().by_label
    except (NoProfileError, FileError) as error:
        refuse(str(error), MISTAKEN)
    if link not in links:
        refuse(f"there is no link {link}; known: {', '.join(links)}", MISTAKEN)
    timing = found.encode.get(where)
    times = ModelTimes(
        image_s=timing.image_s if timing else 0.0,
        prefill=found.prefill.get(where),
        decode=found.decode.get(where),
        link=links[link],
        kv_bytes_per_token=found.kv_bytes_per_token,
    )
    stage = _STAGES[role][-1]
    return times, kv_capacity_tokens(found, stage, where, load_accelerators()), found.chunk_tokens


def _where(profile: ModelProfile, role: Role, hardware: str) -> HardwareClass:
    able = [
        where
        for where in profile.classes(_STAGES[role][0])
        if all(where in profile.classes(stage) for stage in _STAGES[role])
    ]
    names = {f"{where.hardware}x{where.tp}": where for where in sorted(able)}
    if hardware and hardware not in names:
        refuse(f"{profile.model} has no times of {role} on {hardware}; known: {', '.join(names)}", MISTAKEN)
    return names[hardware] if hardware else next(iter(names.values()))


def _limits(parts: Iterable[str]) -> dict[str, int]:
    limits = {}
    for part in parts:
        name, _, count = part.partition("=")
        if name not in _TYPICAL.media_limits or not count.isdigit():
            known = ", ".join(_TYPICAL.media_limits)
            raise ValueError(f"--limit: {part!r} is not MODALITY=COUNT with a modality of {known}")
        limits[name] = int(count)
    return limits


def _faults(parts: Iterable[str]) -> Faults:
    """Return the faults of the command line.

    Raises:
        ValueError: Names the part that is wrong.
    """
    fields = {}
    for part in parts:
        name, _, value = part.partition("=")
        try:
            fields[name] = msgspec.json.decode(value or "true")
        except msgspec.DecodeError:
            raise ValueError(f"--fault: {part!r} is not NAME=NUMBER, NAME=true or NAME=false") from None
    try:
        return msgspec.convert(fields, Faults)
    except msgspec.ValidationError as error:
        raise ValueError(f"--fault: {error}; known: {', '.join(Faults.__struct_fields__)}") from None
