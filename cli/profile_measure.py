"""`tercet profile measure`: what a running service can do, as a profile file."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cli.paths import POLICIES, state_home
from cli.pressure.measure import Plan, measure
from cli.pressure.requests import Mix
from cli.pressure.system import NoSystemError, System, started
from cli.refuse import MISTAKEN, UNSERVED, refuse
from cli.report_file import check_writable, write_whole
from orchestrator.policy import Policy, PolicyError, load_policy
from orchestrator.profiles import NoProfileError
from orchestrator.profiles.measured import profile_text
from orchestrator.yaml_file import FileError
from stages.types import Stage

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def measure_command(
    output: Annotated[Path, typer.Option(help="Profile file to write.", dir_okay=False)],
    policy: Annotated[Path, typer.Option(help="Stage policy file.", dir_okay=False)] = POLICIES / "tiny.yaml",
    url: Annotated[
        str, typer.Option(help="Gateway of a service that runs on this machine; by default one is started.")
    ] = "",
    state: Annotated[
        Path | None, typer.Option(help="State folder of that service, if not the default.", file_okay=False)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Of all tests; the spread is between them.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Of one test.", min=0.2, max=60.0)] = 1.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON too.")] = False,
) -> None:
    """Press a service on this machine and write the profile that explains what it did."""
    loaded = _policy(policy)
    _writable(output)
    plan = Plan(rounds=rounds, duration_s=seconds, starts=0 if url else 3)
    try:
        with _system(url, state, policy, loaded) as system:
            counts = system.replicas()
            keys = measure(system, loaded, counts, plan, Mix(), lambda text: typer.echo(text, err=True))
    except (NoSystemError, NoProfileError, FileError) as error:
        refuse(str(error), UNSERVED)
    except (ExceptionGroup, RuntimeError, OSError, ValueError) as error:
        refuse(f"the service gave up under pressure: {_first(error)}; see its logs", UNSERVED)
    write_whole(output, profile_text(keys))
    if as_json:
        typer.echo(json.dumps(keys))
    else:
        print_profile(keys, output)


def _policy(path: Path) -> Policy:
    try:
        return load_policy(path)
    except PolicyError as error:
        refuse(str(error), MISTAKEN)


def _writable(output: Path) -> None:
    try:
        check_writable(output)
    except OSError as error:
        refuse(f"cannot write {output}: {error.strerror}; name another file with --output", MISTAKEN)


def _system(url: str, state: Path | None, policy: Path, loaded: Policy) -> AbstractContextManager[System]:
    if not url:
        return started(policy, {stage: max(1, loaded.stages[stage].min) for stage in Stage})
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        refuse(f"{url} is no address; give something like http://127.0.0.1:8080", MISTAKEN)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK or not port:
        refuse(
            f"{url} is no service on this machine, where its processor time could be counted; "
            "give something like http://127.0.0.1:8080, or leave --url out",
            MISTAKEN,
        )
    return nullcontext(System(port=port, state=state or state_home(port)))


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def print_profile(keys: dict[str, Any], output: Path) -> None:
    """Print a measured profile's figures with their spread."""
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title=f"{keys['model']} on {keys['encode']['rows'][0]['hardware']}"
    )
    for column in ("figure", "taken", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, spread in _spreads(keys["host"]).items():
        low, taken, high = (_short(name, value) for value in spread)
        table.add_row(name.removesuffix("_s").replace("_", " "), taken, low, high)
    for row in keys["frontier"]:
        low, taken, high = (f"{value:.2f}" for value in row["decode_per_prefill"])
        table.add_row(f"decode replicas per prefill, batch {row['sequences']}", taken, low, high)
    Console().print(table)
    typer.echo(f"written: {output}; name it in a policy's model.profile to simulate with it")


def _spreads(host: Mapping[str, Any]) -> dict[str, list[float]]:
    figures = {k: v for k, v in host.items() if k not in ("cores", "worker_hop_s", "slowness", "source")}
    return figures | {f"{stage} hop": spread for stage, spread in host["worker_hop_s"].items()}


def _short(name: str, value: float) -> str:
    return f"{value:.2f}" if name in ("late", "seek", "stolen") else f"{1e3 * value:.3g} ms"
