"""`tercet simulate`, `compare` and `tune`: what a policy file would do to a trace of requests."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.found import found_as_json, found_figures
from cli.report_file import check_writable, write_whole
from orchestrator.core.image_size import ImageSizeError
from orchestrator.core.scaling import SCALERS
from orchestrator.core.scaling.static import StaticParams
from orchestrator.policy import PolicyError
from orchestrator.simulator.auto_rate import RateError
from orchestrator.simulator.compare import comparable, compare_found, compare_policies
from orchestrator.simulator.fault_spec import FaultError, check_faults, parse_fault
from orchestrator.simulator.faults import KINDS, Fault, kind_of
from orchestrator.simulator.figures import (
    Figures,
    percent_text,
    request_figures,
    stage_figures,
    strike_texts,
    times_text,
)
from orchestrator.simulator.fleet_spec import FleetError
from orchestrator.simulator.outages import Strike
from orchestrator.simulator.report import report as report_of
from orchestrator.simulator.run import Run, simulate
from orchestrator.simulator.scenario import NoTraceError, Subject, load_subjects, scenario_of
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.timeline import Moment
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.tune import Tuned, tune
from orchestrator.simulator.variant import Variant
from orchestrator.simulator.workload import Workload
from orchestrator.yaml_file import FileError
from stages.types import Stage

PolicyFile = Annotated[Path, typer.Option("--policy", help="Stage policy file.", dir_okay=False)]
PolicyFiles = Annotated[
    list[Path],
    typer.Option("--policy", help="Stage policy file; several share the fleet.", dir_okay=False),
]
Traces = Annotated[
    list[str] | None,
    typer.Option(
        "--trace",
        help="CSV or JSON lines of requests, or twin:PER_MINUTE.csv; one for each --policy, in their order. "
        "By default the policies' demand.trace.",
    ),
]
Trace = Annotated[
    str | None,
    typer.Option(
        help="CSV or JSON lines of requests, or twin:PER_MINUTE.csv; by default the policy's demand.trace."
    ),
]
Fleet = Annotated[
    str | None,
    typer.Option(help="Nodes, such as a100=16x8,l40s=8x8; by default room for every stage's max."),
]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0)]
RateScale = Annotated[
    str,
    typer.Option(
        help="Factor on the requests per second; auto: the busiest 5 minutes take 80 % of the fleet.",
        metavar="NUMBER|auto",
    ),
]
AsVariant = Annotated[
    Variant,
    typer.Option(help="The traces' images: at most 16 a request, all of them, or tiles of images."),
]
ImagePx = Annotated[
    int | None,
    typer.Option(help="Width and height of images; by default what the profile is for, 896.", min=1),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Report = Annotated[
    Path | None,
    typer.Option(help="Also draw the run into this HTML file, which opens offline.", dir_okay=False),
]

Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        help=f"What goes wrong, such as node-loss:at=3600,for=1800; any number of {', '.join(KINDS)}.",
    ),
]

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
        _fail("--replicas is for one --policy")
    rate = _rate_scale(rate_scale)
    subjects = _load_all(policy, trace, fleet, rate, seed, variant, image_px)
    fixed = _fixed(replicas) if replicas else None
    faults = _faults(fault or [], subjects)
    if report:
        _kept(report, lambda: check_writable(report))
    with _progress(as_json) as progress:
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
    if report:
        notes = [note for subject in subjects for note in subject.notes]
        _kept(report, lambda: write_whole(report, report_of(run, summarise(run), notes)))
        typer.echo(f"report: {report}", err=as_json)


def compare_command(
    policy: PolicyFiles,
    trace: Traces = None,
    fleet: Fleet = None,
    only: Annotated[str, typer.Option(help="Scaling policies, with commas; by default all.")] = "",
    search: Annotated[
        int,
        typer.Option(
            help="Tune each policy in so many trials first, on --seed, and compare them on the next seed.",
            min=0,
        ),
    ] = 0,
    fault: Faults = None,
    seed: Seed = 0,
    rate_scale: RateScale = "1",
    variant: AsVariant = Variant.CLIPPED,
    image_px: ImagePx = None,
    as_json: AsJson = False,
) -> None:
    """Put scaling policies side by side on the same work; figures are simulated."""
    if search and len(policy) > 1:
        _fail("--search is for one --policy")
    rate = _rate_scale(rate_scale)
    subjects = _load_all(policy, trace, fleet, rate, seed, variant, image_px)
    faults = _faults(fault or [], subjects)
    names = [name.strip() for name in only.split(",") if name.strip()] or comparable()
    for name in names:
        if name not in SCALERS:
            _fail(f"there is no scaling policy {name}; there are {', '.join(comparable())}")
    if search:
        test = _load_all(policy, trace, fleet, rate, seed + 1, variant, image_px)
        _compare_found(subjects[0], test[0], names, search, seed, as_json)
        return
    with _progress(as_json) as progress:
        task = progress.add_task("comparing", total=len(names))
        summaries = compare_policies(subjects, names, seed, faults, lambda name: progress.advance(task))
    if as_json:
        typer.echo(json.dumps(_comparison(subjects, summaries), indent=2))
    else:
        _print_comparison(subjects, summaries)


def _compare_found(
    train: Subject, test: Subject, names: Sequence[str], trials: int, seed: int, as_json: bool
) -> None:
    with _progress(as_json) as progress:
        task = progress.add_task("searching", total=len(names) * (trials + 1))

        def tried(name: str) -> None:
            progress.update(task, advance=1, description=f"searching {name}")

        compared = compare_found(train, test, names, trials=trials, seed=seed, tried=tried)
    summaries = {name: searched.summary for name, searched in compared.items()}
    if as_json:
        found = {name: found_as_json(searched.found) for name, searched in compared.items()}
        typer.echo(json.dumps({**_comparison([test], summaries), "found": found}, indent=2))
    else:
        _print_comparison([test], summaries)
        Console().print(_figures_table(found_figures([each.found for each in compared.values()])))


def tune_command(
    policy: PolicyFile,
    trace: Trace = None,
    fleet: Fleet = None,
    trials: Annotated[int, typer.Option(help="Simulations at most.", min=1)] = 24,
    seed: Seed = 0,
    rate_scale: RateScale = "1",
    variant: AsVariant = Variant.CLIPPED,
    image_px: ImagePx = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest fixed counts that keep the policy's promises, and so the E:P:D ratio; simulated."""
    traces = [trace] if trace else None
    (subject,) = _load_all([policy], traces, fleet, _rate_scale(rate_scale), seed, variant, image_px)
    with _progress(as_json) as progress:
        task = progress.add_task("tuning", total=trials)
        tuned = tune(subject, trials=trials, seed=seed, tried=lambda trial: progress.advance(task))
    if as_json:
        typer.echo(json.dumps(_tuned_as_json(subject, tuned), indent=2))
    else:
        _print_tuned(subject, tuned)


def predicted(old: Path, new: Path, trace: str | None) -> dict[str, dict[str, float]]:
    """Return GPU-hours, cost and attainment under two policy files on the same requests."""
    traces = [trace] if trace else None
    subjects = {which: _load_all([file], traces)[0] for which, file in (("old", old), ("new", new))}
    found = {which: summarise(simulate(subject.scenario())) for which, subject in subjects.items()}
    return {
        figure: {which: float(getattr(summary, figure)) for which, summary in found.items()}
        for figure in ("gpu_hours", "cost_usd", "attainment")
    }


def _rate_scale(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.001 <= factor < math.inf:
        _fail(f"--rate-scale: {text!r} is neither auto nor a number from 0.001")
    return factor


def _load_all(
    policies: Sequence[Path],
    traces: Sequence[str] | None,
    fleet: str | None = None,
    rate_scale: float | Literal["auto"] = 1.0,
    seed: int = 0,
    variant: Variant = Variant.CLIPPED,
    image_px: int | None = None,
) -> tuple[Subject, ...]:
    if rate_scale == "auto" and len(policies) > 1:
        _fail("--rate-scale auto is for one --policy")
    if traces and len(traces) != len(policies):
        _fail(f"{len(traces)} --trace for {len(policies)} --policy: give one for each, or none")
    chosen: Sequence[str | None] = traces or [None] * len(policies)
    try:
        return load_subjects(
            policies,
            chosen,
            fleet=fleet,
            rate_scale=rate_scale,
            variant=variant,
            image_px=image_px,
            seed=seed,
        )
    except ImageSizeError as error:
        _fail(f"--image-px: {error}")
    except (PolicyError, FileError, TraceError, FleetError, NoTraceError, RateError, OSError) as error:
        _fail(str(error))


def _faults(texts: Sequence[str], subjects: Sequence[Subject]) -> list[Fault]:
    try:
        faults = [parse_fault(text) for text in texts]
        check_faults(faults, [subject.control.service for subject in subjects], subjects[0].nodes)
    except FaultError as error:
        _fail(f"--fault: {error}")
    return faults


def _kept(file: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        _fail(f"cannot write the report {file}: {error.strerror}")


def _fixed(text: str) -> StaticParams:
    counts = dict.fromkeys(Stage, 1)
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name.strip() not in tuple(Stage) or not count.strip().isdigit():
            _fail(f"--replicas: {part!r} is not STAGE=COUNT with a stage of {', '.join(Stage)}")
        counts[Stage(name.strip())] = int(count)
    encode, prefill, decode = counts.values()
    return StaticParams(encode=encode, prefill=prefill, decode=decode)


def _progress(quiet: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)


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
        "trace": _trace_as_json(subject),
        **asdict(summarise(run)),
        "faults": [_strike_as_json(strike) for strike in run.strikes],
        "timeline": [asdict(moment) for moment in run.only.timeline],
    }


def _trace_as_json(subject: Subject) -> dict[str, Any]:
    return {"name": subject.workload.name, "label": subject.workload.label, "notes": subject.notes}


def _strike_as_json(strike: Strike) -> dict[str, Any]:
    return {"kind": kind_of(strike.fault), "at_s": strike.fault.at_s, "hit": strike.hit}


def _comparison(subjects: Sequence[Subject], summaries: Mapping[str, Summary]) -> dict[str, Any]:
    works = [subject.workload for subject in subjects]
    return {
        "kind": "profile-driven simulation",
        "policy": ", ".join(subject.policy.service for subject in subjects),
        "trace": {
            "name": ", ".join(work.name for work in works),
            "label": ", ".join(work.label for work in works),
            "notes": [note for subject in subjects for note in subject.notes],
        },
        "policies": {
            name: {
                "gpu_hours": summary.gpu_hours,
                "cost_usd": summary.cost_usd,
                "attainment": summary.groups["all"].attainment,
                "ttft_p99_s": summary.groups["all"].ttft_s[99],
                "tpot_p99_s": summary.groups["all"].tpot_s[99],
                "refused": summary.endings["refused"],
                "scale_events": sum(summary.scale_events.values()),
            }
            for name, summary in summaries.items()
        },
    }


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
        f"[bold]{subject.policy.service}[/bold], scaling {summary.scaling}: {_requests(work)} "
        f"in {work.span_s:,.0f} s. Profile-driven simulation, seed {summary.seed}."
    )
    _print_notes([subject])
    console.print(_figures_table(request_figures(summary)))
    console.print(_figures_table(stage_figures(summary)))
    console.print(_timeline_table(run.only.timeline))
    if summary.embedding_hits or summary.prefix_hits:
        console.print(
            f"caches supplied {percent_text(summary.embedding_hits)} of the image tokens and "
            f"{percent_text(summary.prefix_hits)} of the prompt tokens"
        )
    if len(run.scenario.tenants) > 1:
        console.print(f"{summary.gpu_hours:,.2f} GPU-hours, ${summary.cost_usd:,.2f}")


def _print_notes(subjects: Sequence[Subject]) -> None:
    for note in (note for subject in subjects for note in subject.notes):
        Console().print(f"note: {note}", style="dim")


def _figures_table(figures: Figures) -> Table:
    table = _table(*figures.columns)
    for row in figures.rows:
        table.add_row(*row)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _timeline_table(timeline: Sequence[Moment]) -> Table:
    """Show moments spread evenly over the run; `--json` has all of them."""
    step = max(1, -(-len(timeline) // _TIMELINE_ROWS))
    table = _table("at", *Stage)
    for moment in timeline[::step]:
        table.add_row(f"{moment.at_s:,.0f} s", *[_count(moment, stage) for stage in Stage])
    return table


def _count(moment: Moment, stage: Stage) -> str:
    counts, (_, reason) = moment.counts[stage], moment.wanted[stage]
    coming = f"+{counts.coming}" if counts.coming else ""
    return f"{counts.ready}{coming} {reason}"


def _print_comparison(subjects: Sequence[Subject], summaries: Mapping[str, Summary]) -> None:
    console = Console()
    table = _table("policy", "GPU-h", "cost $", "attained", "TTFT p99 s", "TPOT p99 ms", "refused", "events")
    for name, summary in summaries.items():
        everyone = summary.groups["all"]
        table.add_row(
            name,
            f"{summary.gpu_hours:,.2f}",
            f"{summary.cost_usd:,.2f}",
            percent_text(everyone.attainment),
            times_text({99: everyone.ttft_s[99]}, 1.0, 2),
            times_text({99: everyone.tpot_s[99]}, 1e3, 1),
            f"{summary.endings['refused']:,}",
            str(sum(summary.scale_events.values())),
        )
    console.print(table)
    requests = " and ".join(_requests(s.workload) for s in subjects)
    console.print(f"{requests}; profile-driven simulation")
    _print_notes(subjects)


def _requests(work: Workload) -> str:
    return f"{len(work):,} requests of {work.name} ({work.label})"


def _tuned_as_json(subject: Subject, tuned: Tuned) -> dict[str, Any]:
    best = tuned.best
    return {
        "kind": "profile-driven simulation",
        "trace": _trace_as_json(subject),
        "counts": best.counts,
        "attained": best.attained,
        "attainment": best.summary.attainment,
        "gpu_hours": best.summary.gpu_hours,
        "cost_usd": best.summary.cost_usd,
        "trials": [
            {"counts": t.counts, "attainment": t.summary.attainment, "cost_usd": t.summary.cost_usd}
            for t in tuned.trials
        ],
    }


def _print_tuned(subject: Subject, tuned: Tuned) -> None:
    console, best = Console(), tuned.best
    table = _table("encode", "prefill", "decode", "attained", "GPU-h", "cost $")
    for trial in tuned.trials:
        summary = trial.summary
        figures = (percent_text(summary.attainment), f"{summary.gpu_hours:,.2f}", f"{summary.cost_usd:,.2f}")
        style = "bold" if trial is best else None
        table.add_row(*[str(trial.counts[stage]) for stage in Stage], *figures, style=style)
    console.print(table)
    ratio = ":".join(str(best.counts[stage]) for stage in Stage)
    verdict = "" if best.attained else " — the SLO was not attained; raise max, --fleet or --trials"
    console.print(f"E:P:D = {ratio}; {_requests(subject.workload)}; profile-driven simulation{verdict}")
    _print_notes([subject])


def _fail(message: str) -> NoReturn:
    typer.echo(f"tercet: {message}", err=True)
    raise typer.Exit(2)
