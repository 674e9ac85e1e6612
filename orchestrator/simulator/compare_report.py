"""Scaling policies side by side, as tables and as one HTML file."""

from collections.abc import Mapping, Sequence

from orchestrator.simulator.charts import counts_plot
from orchestrator.simulator.compare import Compared
from orchestrator.simulator.figures import Figures, percent_text, shortfall_texts, times_text
from orchestrator.simulator.page import facts, note, page, section, table
from orchestrator.simulator.scatter import Spent, scatter_plot
from orchestrator.simulator.scenario import Subject, fleet_text
from orchestrator.simulator.search import Found


def comparison_figures(compared: Mapping[str, Compared]) -> Figures:
    """Return what each policy came to."""
    rows = [
        (
            name,
            f"{summary.gpu_hours:,.2f}",
            f"{summary.cost_usd:,.2f}",
            percent_text(everyone.attainment),
            times_text({99: everyone.ttft_s[99]}, 1.0, 2),
            times_text({99: everyone.tpot_s[99]}, 1e3, 1),
            f"{summary.endings['refused']:,}",
            str(sum(summary.scale_events.values())),
        )
        for name, each in compared.items()
        for summary in [each.summary]
        for everyone in [summary.groups["all"]]
    ]
    columns = ("policy", "GPU-h", "cost $", "attained", "TTFT p99 s", "TPOT p99 ms", "refused", "events")
    return Figures(columns, rows)


def shortfalls(compared: Mapping[str, Compared]) -> list[str]:
    """Return a line for each policy that was refused places, or refused requests; see `shortfall_texts`."""
    texts = {name: "; ".join(shortfall_texts(each.summary)) for name, each in compared.items()}
    return [f"{name}: {text}" for name, text in texts.items() if text]


def found_figures(compared: Mapping[str, Compared]) -> Figures | None:
    """Return the parameters found for each policy, with figures of the training; None without a search."""
    rows = [_found_row(each.found) for each in compared.values() if each.found]
    columns = ("policy", "trials", "GPU-h", "attained", "parameters found, figures of the training")
    return Figures(columns, rows) if rows else None


def _found_row(found: Found) -> tuple[str, ...]:
    best = found.best
    return (
        found.scaling,
        str(len(found.trials)),
        f"{best.summary.gpu_hours:,.2f}",
        percent_text(best.summary.attainment),
        ", ".join(f"{name} {value:.3g}" for name, value in best.point.items()) or "–",
    )


def comparison_report(
    subjects: Sequence[Subject], compared: Mapping[str, Compared], faults: Sequence[str] = ()
) -> str:
    """Return the text of an HTML file; equal comparisons give equal texts.

    Args:
        subjects: The services, under the load that policies are judged on.
        compared: By policy, at least one.
        faults: What went wrong, for people.
    """
    found = found_figures(compared)
    parts = [
        _facts(subjects, compared, faults),
        f"<h2>Policies</h2>\n{table(comparison_figures(compared))}{''.join(map(note, shortfalls(compared)))}",
        f"<h2>Parameters found</h2>\n{table(found, 'decisions')}" if found else "",
        section(
            "GPU-hours against attainment",
            "Further left is cheaper, further up attains more. The policy that the file names is marked.",
            [scatter_plot("GPU-hours against attainment", _spent(subjects, compared), _goal(subjects))],
        ),
        *[_timelines(name, each) for name, each in compared.items()],
    ]
    notes = [note for subject in subjects for note in subject.notes]
    return page(f"Scaling policies for {_services(subjects)}", parts, notes)


def _services(subjects: Sequence[Subject]) -> str:
    return " and ".join(subject.policy.service for subject in subjects)


def _facts(subjects: Sequence[Subject], compared: Mapping[str, Compared], faults: Sequence[str]) -> str:
    works = [subject.workload for subject in subjects]
    return facts(
        {
            "services": _services(subjects),
            "requests": "; ".join(f"{len(work):,} of {work.name} ({work.label})" for work in works),
            "fleet": fleet_text(subjects[0].nodes),
            "seed": ", ".join(dict.fromkeys(str(each.summary.seed) for each in compared.values())),
            "faults": "; ".join(faults) or "none",
        }
    )


def _goal(subjects: Sequence[Subject]) -> float:
    return max(subject.control.attainment for subject in subjects)


def _spent(subjects: Sequence[Subject], compared: Mapping[str, Compared]) -> list[Spent]:
    own = {subject.control.scaling for subject in subjects}
    return [
        Spent(
            name=name,
            gpu_hours=each.summary.gpu_hours,
            attainment=each.summary.attainment,
            chosen=name in own,
        )
        for name, each in compared.items()
    ]


def _timelines(name: str, compared: Compared) -> str:
    span_s, several = compared.summary.span_s, len(compared.timelines) > 1
    plots = [
        counts_plot(f"Replicas under {name}{f', {service}' if several else ''}", timeline, span_s)
        for service, timeline in compared.timelines.items()
    ]
    text = f"Ready replicas by stage{f', of {_named(compared)}' if several else ''}."
    return section(name, text, plots)


def _named(compared: Compared) -> str:
    return ", then of ".join(compared.timelines)
