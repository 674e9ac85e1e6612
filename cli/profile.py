"""`tercet profile`: what profiles say of models on hardware."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.profile_measure import measure_command
from orchestrator.core.capacity import (
    Mix,
    decode_batch,
    decode_rate,
    encode_rate,
    kv_capacity_tokens,
    prefill_rate,
)
from orchestrator.core.profile import Accelerator, HardwareClass, ModelProfile
from orchestrator.profiles import (
    DATA,
    NoProfileError,
    load_accelerators,
    load_profile,
    profile_path,
    read_profile,
)
from orchestrator.yaml_file import FileError
from stages.types import Stage

profile_app = typer.Typer(help="What models' stages can do on which hardware.", no_args_is_help=True)

profile_app.command("measure")(measure_command)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The request and the limits that a table is for."""

    images: int
    text_tokens: int
    output_tokens: int
    tpot_s: float
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One replica on one hardware class; None where the profile has no timing.

    Attributes:
        cost_per_h: US dollars.
        image_tokens_per_s: Encode, saturated; likewise `prompt_tokens_per_s` of prefill.
        output_tokens_per_s: Decode, at the largest batch within TPOT, slots and KV cache.
        itl_s: Inter-token latency at that batch.
        kv_tokens: KV positions beside the language model's weights.
        derived: Stages whose times are those of another class divided by a speed.
    """

    hardware: str
    tp: int
    cost_per_h: float
    image_tokens_per_s: float | None
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None
    batch: int | None
    itl_s: float | None
    kv_tokens: int | None
    derived: tuple[str, ...]


@profile_app.command("list")
def list_profiles(as_json: AsJson = False) -> None:
    """List the models that have profiles."""
    names = sorted(path.stem for path in (DATA / "profiles").glob("*.yaml"))
    typer.echo(json.dumps(names) if as_json else "\n".join(names))


@profile_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Model, alias or profile file.", show_default=False)],
    as_json: AsJson = False,
    images: Annotated[int, typer.Option(help="Images of a request.", min=0)] = 1,
    text_tokens: Annotated[int, typer.Option(help="Text tokens of its prompt.", min=1)] = 1024,
    output_tokens: Annotated[int, typer.Option(help="Tokens of its completion.", min=1)] = 200,
    tpot_s: Annotated[float, typer.Option(help="Seconds per output token at most.", min=0.0)] = 0.05,
    slots: Annotated[int, typer.Option(help="Sequences in a decode batch at most.", min=1)] = 128,
) -> None:
    """Print the saturated rates of one replica of each stage, by hardware class, at a stated mix."""
    asked = Asked(
        images=images, text_tokens=text_tokens, output_tokens=output_tokens, tpot_s=tpot_s, slots=slots
    )
    try:
        path = Path(name) if Path(name).is_file() else profile_path(name)
        accelerators = load_accelerators()
        profile = load_profile(path, accelerators)
        derived = _derived(path)
    except (FileError, NoProfileError) as error:
        typer.echo(f"tercet: {error}", err=True)
        raise typer.Exit(2) from error
    rows = [_row(profile, where, accelerators, asked, derived) for where in _classes(profile)]
    if as_json:
        _print_json(profile, asked, rows)
    else:
        _print_table(profile, asked, rows)


def _classes(profile: ModelProfile) -> list[HardwareClass]:
    return sorted(frozenset[HardwareClass]().union(*(profile.classes(stage) for stage in Stage)))


def _derived(path: Path) -> Mapping[HardwareClass, tuple[str, ...]]:
    file = read_profile(path)
    sections = {
        Stage.ENCODE: file.encode.rows,
        Stage.PREFILL: file.prefill.rows,
        Stage.DECODE: file.decode.rows,
    }
    found: dict[HardwareClass, tuple[str, ...]] = {}
    for stage, rows in sections.items():
        for row in rows:
            if row.like:
                where = HardwareClass(row.hardware, row.tp)
                found[where] = (*found.get(where, ()), stage.value)
    return found


def _row(
    profile: ModelProfile,
    where: HardwareClass,
    accelerators: Mapping[str, Accelerator],
    asked: Asked,
    derived: Mapping[HardwareClass, tuple[str, ...]],
) -> Row:
    mix = _mix(profile, asked)
    decodes = where in profile.decode
    kv_tokens = kv_capacity_tokens(profile, Stage.DECODE, where, accelerators)
    batch, rate = _decoding(profile, where, mix, asked, kv_tokens) if decodes else (None, None)
    alive = mix.context_tokens + mix.output_tokens / 2.0
    return Row(
        hardware=where.hardware,
        tp=where.tp,
        cost_per_h=accelerators[where.hardware].cost_per_h * where.tp,
        image_tokens_per_s=encode_rate(profile, where) if where in profile.encode else None,
        prompt_tokens_per_s=prefill_rate(profile, where) if where in profile.prefill else None,
        output_tokens_per_s=rate,
        batch=batch,
        itl_s=profile.decode[where].itl_s(batch, batch * alive) if batch else None,
        kv_tokens=kv_tokens if decodes else None,
        derived=derived.get(where, ()),
    )


def _decoding(
    profile: ModelProfile, where: HardwareClass, mix: Mix, asked: Asked, kv_tokens: int
) -> tuple[int, float]:
    """Return the largest batch and its output tokens per second."""
    tpot_s, slots = asked.tpot_s, asked.slots
    return (
        decode_batch(profile, where, mix, tpot_s=tpot_s, slots=slots, kv_tokens=kv_tokens),
        decode_rate(profile, where, mix, tpot_s=tpot_s, slots=slots, kv_tokens=kv_tokens),
    )


def _mix(profile: ModelProfile, asked: Asked) -> Mix:
    """Return the mix of a request; keys and values in cross-attention layers count as positions."""
    prompt = asked.text_tokens + profile.kappa * asked.images * profile.image_tokens
    crossed = asked.images * profile.image_kv_positions
    return Mix(prompt_tokens=prompt, context_tokens=prompt + crossed, output_tokens=asked.output_tokens)


def _print_json(profile: ModelProfile, asked: Asked, rows: list[Row]) -> None:
    facts = {
        "model": profile.model,
        "kappa": profile.kappa,
        "image_tokens": profile.image_tokens,
        "error": list(profile.error),
        "source": profile.source,
        "mix": asdict(asked),
        "classes": [asdict(row) for row in rows],
    }
    typer.echo(json.dumps(facts))


def _print_table(profile: ModelProfile, asked: Asked, rows: list[Row]) -> None:
    table = Table(title=f"{profile.model}, one replica", title_justify="left")
    for column in ("hardware", "$/h", "E image tok/s", "P prompt tok/s", "D output tok/s", "batch", "ITL ms"):
        table.add_column(column, justify="left" if column == "hardware" else "right")
    table.add_column("KV tokens", justify="right")
    for row in rows:
        table.add_row(
            f"{row.tp} × {row.hardware}",
            f"{row.cost_per_h:.2f}",
            _rate(row.image_tokens_per_s, derived=Stage.ENCODE in row.derived),
            _rate(row.prompt_tokens_per_s, derived=Stage.PREFILL in row.derived),
            _rate(row.output_tokens_per_s, derived=Stage.DECODE in row.derived),
            "" if row.batch is None else str(row.batch),
            "" if row.itl_s is None else f"{1e3 * row.itl_s:.3g}",
            _rate(row.kv_tokens, derived=False),
        )
    console = Console()
    console.print(table)
    console.print(
        f"D: requests of {asked.images} images, {asked.text_tokens} text and {asked.output_tokens} output "
        f"tokens, TPOT {asked.tpot_s:g} s, {asked.slots} slots. ~: derived from another class. "
        f"Times are believed to be within ×{profile.error[0]:g} to ×{profile.error[1]:g}.",
        highlight=False,
    )


def _rate(value: float | None, *, derived: bool) -> str:
    return "" if value is None else f"{'~' if derived else ''}{value:,.0f}"
