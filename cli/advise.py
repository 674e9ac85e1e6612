"""`tercet advise`: where each stage of a service can run, and what that costs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.core.advisor import (
    Infeasible,
    Obstacle,
    Verdict,
    advise,
    break_even_per_s,
    recommend,
    together_usd,
)
from orchestrator.core.profile import ModelProfile
from orchestrator.core.stage_work import Demand, Promises, StageWork, stage_works
from orchestrator.core.target_cost import Estimate
from orchestrator.core.targets import Target
from orchestrator.policy import Policy, load_policy
from orchestrator.profiles import find_profile
from orchestrator.simulator.load import load_workload
from orchestrator.simulator.mean_demand import mean_demand
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.variant import IMAGES_AT_MOST
from orchestrator.targets import DEFAULT_FILE, Targets, load_targets
from orchestrator.yaml_file import FileError
from stages.types import Stage

DEFAULT_DEMAND = Demand(
    requests_per_s=1.0, images=1.0, image_share=1.0, text_tokens=512.0, output_tokens=128.0
)
"""Without a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Everything said of one stage.

    Attributes:
        break_even: Requests per second at which two feasible targets cost the same, by their names; None
            if one is always cheaper.
    """

    work: StageWork
    verdicts: tuple[Verdict, ...]
    recommended: Verdict | None
    break_even: Mapping[frozenset[str], float | None]


def advise_command(
    policy: Annotated[Path, typer.Option(help="Stage policy file.", dir_okay=False)],
    rate: Annotated[
        float | None,
        typer.Option(help="Requests per second; the trace's mean by default, 1 without.", min=0.0),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(help="Requests, as for `simulate`; the policy's demand.trace by default."),
    ] = None,
    targets: Annotated[
        Path, typer.Option(help="Prices and limits of deployment targets.", dir_okay=False)
    ] = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare deployment targets by stage: feasible or why not, monthly cost, P99, break-even rate."""
    try:
        loaded, known = load_policy(policy), load_targets(targets)
        profile = find_profile(loaded.model.name)
        demand = _demand(loaded, profile, policy, trace, rate)
    except LookupError as error:
        _fail(str(error.args[0]))
    except (FileError, TraceError, ValueError, OSError) as error:
        _fail(str(error))
    works = stage_works(profile, demand, promises(loaded), known.processor)
    advice = [advice_on(work, known.targets) for work in works if work.calls_per_request]
    if as_json:
        typer.echo(json.dumps(_report(loaded, demand, known, advice), indent=2))
    else:
        _print(loaded, demand, known, advice)


def promises(policy: Policy) -> Promises:
    """Return what a policy asks of the stages."""
    return Promises(
        budget_s={stage: policy.stages[stage].budget_s for stage in Stage},
        tpot_s=policy.slo.tpot_s,
        slots=policy.stages.decode.batch,
    )


def advice_on(work: StageWork, targets: Sequence[Target]) -> Advice:
    """Return the verdicts on a stage, with the break-even rate of each pair of feasible targets."""
    verdicts = advise(work, targets)
    feasible = [target for target, verdict in zip(targets, verdicts, strict=True) if verdict.feasible]
    return Advice(
        work=work,
        verdicts=verdicts,
        recommended=recommend(verdicts),
        break_even={
            frozenset((one.name, other.name)): break_even_per_s(work, one, other)
            for one, other in combinations(feasible, 2)
        },
    )


def _demand(
    policy: Policy, profile: ModelProfile, file: Path, trace: str | None, rate: float | None
) -> Demand:
    named = policy.demand.trace and str(file.parent / policy.demand.trace)
    source, demand = trace or named, DEFAULT_DEMAND
    if source:
        demand = mean_demand(load_workload(source, seed=0)[0].clipped(IMAGES_AT_MOST), profile)
    return demand if rate is None else replace(demand, requests_per_s=rate)


def _report(policy: Policy, demand: Demand, targets: Targets, advice: Sequence[Advice]) -> dict[str, Any]:
    return {
        "service": policy.service,
        "model": policy.model.name,
        "region": targets.region,
        "checked": targets.checked,
        "demand": asdict(demand),
        "stages": {str(each.work.stage): _stage_report(each, targets) for each in advice},
        "together_usd_per_month": _together(targets, advice),
    }


def _together(targets: Targets, advice: Sequence[Advice]) -> dict[str, float]:
    """Return the cost of all stages by target, of those where all are feasible, cheapest first."""
    rows = zip(targets.targets, *(each.verdicts for each in advice), strict=True)
    costs = {target.name: together_usd(target, verdicts) for target, *verdicts in rows}
    return dict(sorted(((n, round(c, 2)) for n, c in costs.items() if c is not None), key=lambda e: e[1]))


def _stage_report(advice: Advice, targets: Targets) -> dict[str, Any]:
    return {
        "budget_s": advice.work.budget_s,
        "recommended": advice.recommended.target if advice.recommended else None,
        "targets": {
            verdict.target: {**_verdict_report(verdict), "unverified": targets.unverified[verdict.target]}
            for verdict in advice.verdicts
        },
        "break_even": [
            {"targets": sorted(pair), "requests_per_s": rate} for pair, rate in advice.break_even.items()
        ],
    }


def _verdict_report(verdict: Verdict) -> dict[str, Any]:
    place, found = verdict.place, verdict.estimate
    where = place.where if place else None
    return {
        "kind": str(verdict.kind),
        "feasible": verdict.feasible,
        "obstacles": [
            {"reason": str(o.reason), "needed": o.needed, "allowed": o.allowed} for o in verdict.obstacles
        ],
        "machine": place.machine or None if place else None,
        "hardware": where.hardware if where else None,
        "tp": where.tp if where else None,
        "within_budget": verdict.within_budget,
        "usd_per_month": found and round(found.usd_per_month, 2),
        "latency_p99_s": found and found.latency_p99_s,
        "replicas": found and found.replicas,
        "cold_fraction": found and found.cold_fraction,
        "cold_start_s": found and list(found.cold_start_s),
    }


def _print(policy: Policy, demand: Demand, targets: Targets, advice: Sequence[Advice]) -> None:
    console = Console()
    console.print(
        f"{policy.service}: {demand.requests_per_s:.4g} requests/s with {demand.images:.3g} images, "
        f"{demand.text_tokens:.0f} text tokens and {demand.output_tokens:.0f} output tokens on average; "
        f"prices of {targets.region}, {targets.checked}"
    )
    for each in advice:
        console.print(_table(each, targets))
        console.print(_in_words(each))
    together = ", ".join(f"{name} ${usd:,.0f}" for name, usd in _together(targets, advice).items())
    console.print(f"all stages on one target, its machines rented whole, a month: {together or 'none'}")
    console.print(
        "~ figures that nobody read at their source take part; docs/advise.md says what is left out",
        style="dim",
    )


def _table(advice: Advice, targets: Targets) -> Table:
    table = Table(title=f"{advice.work.stage}, budget {advice.work.budget_s:g} s", title_justify="left")
    for heading in ("target", "on"):
        table.add_column(heading)
    for heading in ("$/month", "P99", "cold start", "break-even"):
        table.add_column(heading, justify="right", no_wrap=True)
    for verdict in advice.verdicts:
        mark = " ~" if targets.unverified[verdict.target] else ""
        chosen = verdict is advice.recommended
        table.add_row(f"{verdict.target}{mark}", *_cells(verdict, advice), style="bold" if chosen else None)
    return table


def _cells(verdict: Verdict, advice: Advice) -> tuple[str, ...]:
    found = verdict.estimate
    if found is None:
        return ("no: " + "; ".join(map(explain, verdict.obstacles)),)
    return (
        _place(verdict, found),
        f"{found.usd_per_month:,.0f}",
        _seconds(found.latency_p99_s) + ("" if verdict.within_budget else " !"),
        f"{found.cold_start_s.low_s:.0f}–{found.cold_start_s.high_s:.0f} s",
        _break_even(verdict, advice),
    )


def _place(verdict: Verdict, found: Estimate) -> str:
    place = verdict.place
    if place is None or not place.machine:
        return "calls"
    where = f" × {place.where.hardware}/tp{place.where.tp}" if place.where else ""
    return f"{found.replicas}{where} on {place.machine}"


def _break_even(verdict: Verdict, advice: Advice) -> str:
    if advice.recommended is None or verdict is advice.recommended:
        return ""
    rate = advice.break_even[frozenset((verdict.target, advice.recommended.target))]
    return "none" if rate is None else f"{rate:.3g}/s"


def _in_words(advice: Advice) -> str:
    best = advice.recommended
    if best is None or best.estimate is None:
        return "no target is feasible with its P99 within the budget\n"
    return (
        f"→ {best.target}; break-even: requests/s at which another costs the same; "
        "!: cold starts put the P99 over the budget\n"
    )


def explain(obstacle: Obstacle) -> str:
    """Return an obstacle in words, with its numbers in readable units."""
    needed, allowed = obstacle.needed, obstacle.allowed
    match obstacle.reason:
        case Infeasible.NOT_OFFERED:
            return "there is no such service"
        case Infeasible.NO_TIMING:
            return "the model was not profiled on its hardware"
        case Infeasible.ACCELERATOR:
            return f"no accelerator: {_seconds(needed)} instead of {_seconds(allowed)}"
        case Infeasible.TOO_SLOW:
            return f"too slow: {_seconds(needed)} instead of {_seconds(allowed)}"
        case Infeasible.MEMORY:
            return f"memory: {_bytes(needed)}, has {_bytes(allowed)}"
        case Infeasible.TIME_LIMIT:
            return f"a call takes {_seconds(needed)}, may take {_seconds(allowed)}"
        case Infeasible.STREAMING:
            return "calls cannot stream"
        case Infeasible.PAYLOAD:
            return f"payload: {_bytes(needed)}, may have {_bytes(allowed)}"
        case Infeasible.CONCURRENCY:
            return f"{needed:.0f} calls at once, may have {allowed:.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"


def _bytes(count: float) -> str:
    exponent = min(3, max(0, int(math.log(count, 1000.0)))) if count >= 1.0 else 0
    return f"{count / 1000.0**exponent:.3g} {('B', 'kB', 'MB', 'GB')[exponent]}"


def _fail(message: str) -> NoReturn:
    typer.echo(f"tercet: {message}", err=True)
    raise typer.Exit(2)
