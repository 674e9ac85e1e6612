"""A run as one HTML file."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from orchestrator.simulator.charts import ratio_plot, replica_plot, ttft_plot, waiting_plot
from orchestrator.simulator.figures import (
    Figures,
    percent_text,
    request_figures,
    shortfall_texts,
    stage_figures,
    strike_texts,
)
from orchestrator.simulator.page import facts, note, page, section, table
from orchestrator.simulator.run import Run
from orchestrator.simulator.scenario import fleet_text
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.timeline import Moment, StageCounts
from stages.types import Stage

ROWS_AT_MOST = 2_000
"""Decisions listed in a report; the counts by reason are over all of them."""


def report(run: Run, summary: Summary, notes: Sequence[str] = ()) -> str:
    """Return the text of an HTML file, service after service; equal runs give equal texts.

    Args:
        run: What happened.
        summary: Its figures, of all services.
        notes: What was repaired in the traces.
    """
    names = [service.tenant.name for service in run.services]
    several = len(names) > 1
    parts = [_facts(run, summary), _together(summary) if several else ""]
    parts += [_service(run.of(name), several) for name in names]
    return page(" and ".join(_title(service.tenant) for service in run.services), parts, notes)


def _title(tenant: Tenant) -> str:
    return f"{tenant.policy.service} on {tenant.workload.name}"


def _together(summary: Summary) -> str:
    figures = f"{table(request_figures(summary))}{table(stage_figures(summary))}"
    return f"<h2>All services</h2>\n{figures}"


def _service(run: Run, several: bool) -> str:
    summary, tenant = summarise(run), run.only.tenant
    timeline = run.only.timeline
    title = f"<h1>{escape(_title(tenant))}</h1>\n" if several else ""
    return (
        f"{title}{_service_facts(run, summary)}"
        f"<h2>Figures</h2>\n{table(request_figures(summary))}{table(stage_figures(summary))}"
        f"{_plots(run)}{_reasons(timeline)}{_decisions(timeline)}"
    )


def _facts(run: Run, summary: Summary) -> str:
    return facts(
        {
            "fleet": fleet_text(run.scenario.nodes),
            "seed": str(summary.seed),
            "faults": "; ".join(strike_texts(run.strikes)) or "none",
            "spent": f"{_spent(summary)} in {summary.span_s:,.0f} s",
            "fleet provisioned": percent_text(summary.fleet_provisioned),
            "fleet busy": percent_text(summary.fleet_busy),
        }
    )


def _service_facts(run: Run, summary: Summary) -> str:
    tenant = run.only.tenant
    work = tenant.workload
    return facts(
        {
            "policy": f"{tenant.policy.service}, model {tenant.policy.model.name}",
            "scaling": summary.scaling,
            "trace": f"{work.name} ({work.label}), {len(work):,} requests in {work.span_s:,.0f} s",
            "spent on it": _spent(summary),
            "attained": f"{percent_text(summary.groups['all'].attainment)} of the offered requests",
            "requests": ", ".join(f"{count:,} {ending}" for ending, count in summary.endings.items()),
            "short of": "; ".join(shortfall_texts(summary)) or "nothing",
        }
    )


def _spent(summary: Summary) -> str:
    return f"{summary.gpu_hours:,.2f} GPU-hours, ${summary.cost_usd:,.2f}"


def _plots(run: Run) -> str:
    return (
        section(
            "Replicas",
            "Ready, and on top of them those that are starting.",
            [replica_plot(run, stage) for stage in Stage],
        )
        + section("Waiting jobs", "Jobs waiting for each stage, at each decision.", [waiting_plot(run)])
        + section("TTFT by modality", "Of the answered requests, by time of arrival.", [ttft_plot(run)])
        + section("E:P:D ratio", "Each stage's share of the ready replicas.", [ratio_plot(run)])
    )


def _reasons(timeline: Sequence[Moment]) -> str:
    counts = Counter((reason, stage) for m in timeline for stage, (_, reason) in m.wanted.items())
    rows = [
        (reason, *[str(counts[reason, stage]) for stage in Stage])
        for reason in sorted({reason for reason, _ in counts})
    ]
    text = "<p>How often each was given, over the decisions at which a count or a queue had changed.</p>\n"
    return f"<h2>Reasons</h2>\n{text}{table(Figures(('reason', *Stage), rows))}"


def _decisions(timeline: Sequence[Moment]) -> str:
    rows = [
        (f"{moment.at_s:,.0f} s", *[_decided(moment, stage) for stage in Stage])
        for moment in timeline[:ROWS_AT_MOST]
    ]
    left_out = len(timeline) - len(rows)
    more = note(f"{left_out:,} later decisions are left out; --json has all.") if left_out else ""
    listed = table(Figures(("at", *Stage), rows), "decisions")
    return (
        f"<details><summary>{len(timeline):,} decisions</summary>\n"
        "<p>Ready replicas, + coming → wanted, and the reason.</p>\n"
        f"{listed}{more}</details>\n"
    )


def _decided(moment: Moment, stage: Stage) -> str:
    counts, (wanted, reason) = moment.counts[stage], moment.wanted[stage]
    return f"{_there(counts)} → {wanted} {reason}"


def _there(counts: StageCounts) -> str:
    return f"{counts.ready} + {counts.coming}" if counts.coming else str(counts.ready)
