"""`tercet explain`: why a run of `tercet simulate` decided as it did, and what others would have done."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.refuse import MISTAKEN, refuse
from cli.shown import plain_table
from cli.subjects import faults_of, load_all
from orchestrator.simulator.explain import Explanation, NoSuchMomentError, explain
from orchestrator.simulator.figures import percent_text
from orchestrator.simulator.variant import Variant
from stages.types import Stage


def explain_command(
    run: Annotated[Path, typer.Argument(help="What `tercet simulate --json` printed.", dir_okay=False)],
    at: Annotated[float, typer.Option(help="Seconds since the beginning.", min=0.0)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say why a decision was taken and what others would have done, with the regret of the run; simulated."""
    inputs = _inputs(run)
    (subject,) = load_all(
        [Path(inputs["policies"][0])],
        inputs["traces"],
        inputs["fleet"],
        inputs["rate_scale"],
        inputs["seed"],
        Variant(inputs.get("variant", Variant.CLIPPED)),
        inputs.get("image_px"),
    )
    faults = faults_of(inputs["faults"], [subject])
    try:
        with Console(stderr=True).status("simulating the run and the oracle's"):
            found = explain(subject, at, faults=faults, seed=inputs["seed"])
    except NoSuchMomentError as error:
        refuse(f"{error}; choose --at between", MISTAKEN)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2))
    else:
        _print(found)


def _inputs(run: Path) -> dict[str, Any]:
    again = "make one with `tercet simulate --json > FILE`"
    try:
        inputs = json.loads(run.read_text(encoding="utf-8"))["inputs"]
        several, fixed = len(inputs["policies"]) > 1, bool(inputs["replicas"])
    except OSError as error:
        refuse(f"{run}: {error.strerror}; {again}", MISTAKEN)
    except (ValueError, TypeError, KeyError):
        refuse(f"{run} is not what `tercet simulate --json` prints; {again}", MISTAKEN)
    if several or fixed:
        refuse(f"{run} is of several services or of fixed counts; explain one service that scales", MISTAKEN)
    return dict(inputs)


def _as_json(found: Explanation) -> dict[str, Any]:
    return {
        "kind": "profile-driven simulation",
        "at_s": found.at_s,
        "signals": asdict(found.signals),
        "plan": asdict(found.plan),
        "others": {
            name: {s: {"replicas": plan.replicas, "reason": plan.reason} for s, plan in other.stages.items()}
            for name, other in found.others.items()
        },
        "own": {"gpu_hours": found.own.gpu_hours, "attainment": found.own.attainment},
        "oracle": {"gpu_hours": found.oracle.gpu_hours, "attainment": found.oracle.attainment},
        "regret": {"gpu_hours": found.regret_gpu_hours, "attainment": found.regret_attainment},
    }


def _print(found: Explanation) -> None:
    console = Console()
    console.print(f"The decision at {found.at_s:,.0f} s. Profile-driven simulation.")
    console.print(_wanted(found))
    console.print("What it saw:")
    console.print(_seen(found))
    others = plain_table("policy", *Stage, "because")
    others.columns[-1].no_wrap = False
    for name, plan in found.others.items():
        reasons = ", ".join(plan.stages[stage].reason for stage in Stage)
        others.add_row(name, *[str(plan.stages[stage].replicas) for stage in Stage], reasons)
    console.print("What others would have asked for, had they seen the same:")
    console.print(others)
    own, oracle = found.own, found.oracle
    console.print(
        f"The whole run took {own.gpu_hours:,.1f} GPU-hours and attained {percent_text(own.attainment)}; "
        f"the oracle {oracle.gpu_hours:,.1f} and {percent_text(oracle.attainment)}: "
        f"regret {found.regret_gpu_hours:+,.1f} GPU-hours, {100.0 * found.regret_attainment:+.2f} points."
    )


def _wanted(found: Explanation) -> Table:
    table = plain_table("stage", "has", "wants", "need", "because", "after")
    for stage, plan in found.plan.stages.items():
        seen = found.signals.stages[stage]
        coming = f" + {seen.coming} coming" if seen.coming else ""
        before = " → ".join(plan.trail[:-1]) or "–"
        count = f"{seen.ready}{coming}"
        table.add_row(stage, count, str(plan.replicas), f"{plan.need:.2f}", plan.reason, before)
    return table


def _seen(found: Explanation) -> Table:
    table = plain_table("stage", "offered/s", "can do/s", "jobs waiting", "wait s", "of s", "busy")
    for stage, seen in found.signals.stages.items():
        table.add_row(
            stage,
            f"{_offered(found, stage):,.0f}",
            f"{seen.ready_worth * seen.rate:,.0f}",
            f"{seen.waiting_jobs:,.0f}",
            "–" if seen.wait_s is None else f"{seen.wait_s:.2f}",
            f"{seen.budget_s:g}",
            percent_text(seen.utilisation),
        )
    return table


def _offered(found: Explanation, stage: Stage) -> float:
    """Return a stage's units offered per second; of decode nobody counts them before they are made."""
    signals = found.signals
    if stage is Stage.DECODE:
        return signals.requests * signals.output_tokens
    return signals.stages[stage].offered
