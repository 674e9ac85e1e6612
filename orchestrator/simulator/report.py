"""A run as one HTML file that needs nothing else: no scripts, no fonts, no addresses."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from orchestrator.simulator.charts import ratio_plot, replica_plot, ttft_plot, waiting_plot
from orchestrator.simulator.figures import Figures, percent_text, request_figures, stage_figures, strike_texts
from orchestrator.simulator.plot import Plot, svg
from orchestrator.simulator.run import Run
from orchestrator.simulator.summary import Summary, summarise
from orchestrator.simulator.tenant import Tenant
from orchestrator.simulator.timeline import Moment, StageCounts
from stages.types import Stage

ROWS_AT_MOST = 2_000
"""Decisions listed in a report; the counts by reason are over all of them."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1000px;
       margin: 0 auto; padding: 24px; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .kind { font-weight: 600; } .note { color: #444; font-size: .92em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 1rem 0; }
dt { color: #444; } dd { margin: 0; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 18px 3px 0; text-align: left; border-bottom: 1px solid #ddd; }
th { border-bottom: 1.5px solid #222; background: #fff; } tr > :not(:first-child) { text-align: right; }
.decisions tr > :not(:first-child) { text-align: left; }
figure { margin: .4rem 0 0; } svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: #222; }
.line { fill: none; stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round; }
.grid { stroke: #e2e2e2; } .axis { stroke: #222; fill: none; }
summary { cursor: pointer; font-weight: 600; }
"""


def report(run: Run, summary: Summary, notes: Sequence[str] = ()) -> str:
    """Return the text of an HTML file, service after service; equal runs give equal texts.

    Args:
        run: What happened.
        summary: Its figures, of all services.
        notes: What was repaired in the traces.
    """
    names = [service.tenant.name for service in run.services]
    title = escape(" and ".join(_title(service.tenant) for service in run.services))
    several = len(names) > 1
    parts = [_service(run.of(name), several) for name in names]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        '<p class="kind">Profile-driven simulation: no figure here was measured on a running service.</p>\n'
        f"{_facts(run, summary)}{''.join(_note(note) for note in notes)}"
        f"{_together(summary) if several else ''}{''.join(parts)}</body></html>\n"
    )


def _title(tenant: Tenant) -> str:
    return f"{tenant.policy.service} on {tenant.workload.name}"


def _together(summary: Summary) -> str:
    figures = f"{_table(request_figures(summary))}{_table(stage_figures(summary))}"
    return f"<h2>All services</h2>\n{figures}"


def _service(run: Run, several: bool) -> str:
    summary, tenant = summarise(run), run.only.tenant
    timeline = run.only.timeline
    title = f"<h1>{escape(_title(tenant))}</h1>\n" if several else ""
    return (
        f"{title}{_service_facts(run, summary)}"
        f"<h2>Figures</h2>\n{_table(request_figures(summary))}{_table(stage_figures(summary))}"
        f"{_plots(run)}{_reasons(timeline)}{_decisions(timeline)}"
    )


def _facts(run: Run, summary: Summary) -> str:
    return _list(
        {
            "fleet": _fleet(run),
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
    return _list(
        {
            "policy": f"{tenant.policy.service}, model {tenant.policy.model.name}",
            "scaling": summary.scaling,
            "trace": f"{work.name} ({work.label}), {len(work):,} requests in {work.span_s:,.0f} s",
            "spent on it": _spent(summary),
            "attained": f"{percent_text(summary.groups['all'].attainment)} of the offered requests",
            "requests": ", ".join(f"{count:,} {ending}" for ending, count in summary.endings.items()),
        }
    )


def _spent(summary: Summary) -> str:
    return f"{summary.gpu_hours:,.2f} GPU-hours, ${summary.cost_usd:,.2f}"


def _list(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(text)}</dd>' for name, text in facts.items())}</dl>\n"


def _fleet(run: Run) -> str:
    kinds = Counter((node.hardware, node.accelerators) for node in run.scenario.nodes)
    return ", ".join(f"{count:,} × {each} {hardware}" for (hardware, each), count in sorted(kinds.items()))


def _note(note: str) -> str:
    return f'<p class="note">Note: {escape(note)}</p>\n'


def _table(figures: Figures, css: str = "figures") -> str:
    head = _row("th", figures.columns)
    body = "\n".join(_row("td", row) for row in figures.rows)
    return f'<table class="{css}"><thead>{head}</thead><tbody>\n{body}\n</tbody></table>\n'


def _row(tag: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"


def _plots(run: Run) -> str:
    return (
        _section(
            "Replicas",
            "Ready, and on top of them those that are starting.",
            [replica_plot(run, stage) for stage in Stage],
        )
        + _section("Waiting jobs", "Jobs waiting for each stage, at each decision.", [waiting_plot(run)])
        + _section("TTFT by modality", "Of the answered requests, by time of arrival.", [ttft_plot(run)])
        + _section("E:P:D ratio", "Each stage's share of the ready replicas.", [ratio_plot(run)])
    )


def _section(title: str, text: str, plots: Iterable[Plot]) -> str:
    figures = "".join(f"<figure>{svg(plot)}</figure>\n" for plot in plots)
    return f"<h2>{escape(title)}</h2>\n{f'<p>{escape(text)}</p>' if text else ''}{figures}"


def _reasons(timeline: Sequence[Moment]) -> str:
    counts = Counter((reason, stage) for m in timeline for stage, (_, reason) in m.wanted.items())
    rows = [
        (reason, *[str(counts[reason, stage]) for stage in Stage])
        for reason in sorted({reason for reason, _ in counts})
    ]
    text = "<p>How often each was given, over the decisions at which a count or a queue had changed.</p>\n"
    return f"<h2>Reasons</h2>\n{text}{_table(Figures(('reason', *Stage), rows))}"


def _decisions(timeline: Sequence[Moment]) -> str:
    rows = [
        (f"{moment.at_s:,.0f} s", *[_decided(moment, stage) for stage in Stage])
        for moment in timeline[:ROWS_AT_MOST]
    ]
    left_out = len(timeline) - len(rows)
    more = _note(f"{left_out:,} later decisions are left out; --json has all.") if left_out else ""
    table = _table(Figures(("at", *Stage), rows), "decisions")
    return (
        f"<details><summary>{len(timeline):,} decisions</summary>\n"
        "<p>Ready replicas, + coming → wanted, and the reason.</p>\n"
        f"{table}{more}</details>\n"
    )


def _decided(moment: Moment, stage: Stage) -> str:
    counts, (wanted, reason) = moment.counts[stage], moment.wanted[stage]
    return f"{_there(counts)} → {wanted} {reason}"


def _there(counts: StageCounts) -> str:
    return f"{counts.ready} + {counts.coming}" if counts.coming else str(counts.ready)
