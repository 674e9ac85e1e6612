"""`tercet simulate`: what a policy file would do to a trace of requests."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.refuse import MISTAKEN, refuse
from cli.report_file import Report, keep_report, report_asked
from cli.shown import figures_table, plain_table, print_notes, progress_bar, requests_text, trace_as_json
from cli.subjects import (
    AsJson,
    AsVariant,
    Faults,
    Fleet,
    ImagePx,
    PolicyFiles,
    RateScale,
    Seed,
    Traces,
    faults_of,
    load_all,
    rate_scale_of,
)
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.scaling.static import StaticParams
from orchestrator.simulator.faults import kind_of
from orchestrator.simulator.figures import (
    percent_text,
    request_figures,
    shortfall_texts,
    stage_figures,
    strike_texts,
)
from orchestrator.simulator.outages import Strike
from orchestrator.simulator.run import Run, simulate
from orchestrator.simulator.scenario import Subject, scenario_of
from orchestrator.simulator.summary import summarise
from orchestrator.simulator.timeline import Moment
from orchestrator.simulator.variant import Variant
from stages.types import Stage

_TIMELINE_ROWS = 24


def simulate_command(
    policy: PolicyFiles,
    trace: Traces = None,
    fleet: Fleet = None,
    replicas: Annotated[
        str, typer.Option(help="Fixed counts, such as encode=8,prefill=2,decode=2, instead of scaling.")
    ] = "",
    fault: Faults = None,
    seed: Seed = 0,
    rate_scale: RateScale = "1",
    variant: AsVariant = Variant.CLIPPED,
    image_px: ImagePx = None,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Run policy files on traces, by the code that runs live; figures are simulated."""
    if replicas and len(policy) > 1:
        refuse("--replicas is for one --policy", MISTAKEN)
    rate = rate_scale_of(rate_scale)
    subjects = load_all(policy, trace, fleet, rate, seed, variant, image_px)
    fixed = _fixed(replicas, subjects[0].control) if replicas else None
    faults = faults_of(fault or [], subjects)
    report_asked(report)
    with progress_bar(as_json) as progress:
        task = progress.add_task("simulating", total=1.0)
        tenants = [each.tenant(scaling="static" if fixed else None, params=fixed) for each in subjects]
        run = simulate(
            scenario_of(tenants, subjects[0].nodes, faults=faults, seed=seed),
            lambda fraction: progress.update(task, completed=fraction),
        )
    if as_json:
        inputs = {
            "policies": [str(file) for file in policy],
            "traces": trace or [],
            "fleet": fleet,
            "rate_scale": rate,
            "variant": variant,
            "image_px": image_px,
            "replicas": replicas,
            "faults": fault or [],
            "seed": seed,
        }
        typer.echo(json.dumps({"inputs": inputs, **_run_as_json(subjects, run)}, indent=2))
    else:
        _print_all(subjects, run)
    notes = [note for subject in subjects for note in subject.notes]
    keep_report(report, lambda: _report(run, notes), quiet=as_json)


def _report(run: Run, notes: Sequence[str]) -> str:
    """Return the run as a page."""
    from orchestrator.simulator.report import report  # here, so that a run alone loads nothing that draws

    return report(run, summarise(run), notes)


def _fixed(text: str, control: ControlPolicy) -> StaticParams:
    """Return the counts of `--replicas`; a stage that it does not name has its `min`, and one at least."""
    counts = {stage: max(1, control.stages[stage].min) for stage in Stage}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name.strip() not in tuple(Stage) or not count.strip().isdigit():
            refuse(f"--replicas: {part!r} is not STAGE=COUNT with a stage of {', '.join(Stage)}", MISTAKEN)
        counts[Stage(name.strip())] = int(count)
    for stage, replicas in counts.items():
        least, most = control.stages[stage].min, control.stages[stage].max
        if not least <= replicas <= most:
            refuse(f"--replicas: {stage}={replicas} is outside the policy's {least} to {most}", MISTAKEN)
    encode, prefill, decode = counts.values()
    return StaticParams(encode=encode, prefill=prefill, decode=decode)


def _run_as_json(subjects: Sequence[Subject], run: Run) -> dict[str, Any]:
    """Return a service's figures; of several services those of all, and each one's under `services`."""
    each = {s.control.service: _as_json(s, run.of(s.control.service)) for s in subjects}
    if len(each) == 1:
        return next(iter(each.values()))
    return {"kind": "profile-driven simulation", **asdict(summarise(run)), "services": each}


def _as_json(subject: Subject, run: Run) -> dict[str, Any]:
    return {
        "kind": "profile-driven simulation",
        "policy": subject.policy.service,
        "trace": trace_as_json(subject),
        **asdict(summarise(run)),
        "faults": [_strike_as_json(strike) for strike in run.strikes],
        "timeline": [asdict(moment) for moment in run.only.timeline],
    }


def _strike_as_json(strike: Strike) -> dict[str, Any]:
    return {"kind": kind_of(strike.fault), "at_s": strike.fault.at_s, "hit": strike.hit}


def _print_all(subjects: Sequence[Subject], run: Run) -> None:
    for subject in subjects:
        _print_run(subject, run.of(subject.control.service))
    for text in strike_texts(run.strikes):
        Console().print(text)
    summary = summarise(run)
    Console().print(
        f"{summary.gpu_hours:,.2f} GPU-hours, ${summary.cost_usd:,.2f}; of the fleet's accelerators "
        f"{percent_text(summary.fleet_provisioned)} provisioned, {percent_text(summary.fleet_busy)} busy; "
        f"{summary.events:,} events in {summary.wall_s:.1f} s"
    )


def _print_run(subject: Subject, run: Run) -> None:
    console, summary = Console(), summarise(run)
    work = subject.workload
    console.print(
        f"[bold]{subject.policy.service}[/bold], scaling {summary.scaling}: {requests_text(work)} "
        f"in {work.span_s:,.0f} s. Profile-driven simulation, seed {summary.seed}."
    )
    print_notes([subject])
    console.print(figures_table(request_figures(summary)))
    console.print(figures_table(stage_figures(summary)))
    for text in shortfall_texts(summary):
        console.print(text)
    console.print(_timeline_table(run.only.timeline))
    if summary.embedding_hits or summary.prefix_hits:
        console.print(
            f"caches supplied {percent_text(summary.embedding_hits)} of the image tokens and "
            f"{percent_text(summary.prefix_hits)} of the prompt tokens"
        )
    if len(run.scenario.tenants) > 1:
        console.print(f"{summary.gpu_hours:,.2f} GPU-hours, ${summary.cost_usd:,.2f}")


def _timeline_table(timeline: Sequence[Moment]) -> Table:
    """Show moments spread evenly over the run; `--json` has all of them."""
    step = max(1, -(-len(timeline) // _TIMELINE_ROWS))
    table = plain_table("at", *Stage)
    for moment in timeline[::step]:
        table.add_row(f"{moment.at_s:,.0f} s", *[_count(moment, stage) for stage in Stage])
    return table


def _count(moment: Moment, stage: Stage) -> str:
    counts, (_, reason) = moment.counts[stage], moment.wanted[stage]
    coming = f"+{counts.coming}" if counts.coming else ""
    return f"{counts.ready}{coming} {reason}"
