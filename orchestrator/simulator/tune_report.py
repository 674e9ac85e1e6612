"""A search for fixed counts, as a table and as one HTML file."""

from orchestrator.simulator.figures import Figures, percent_text
from orchestrator.simulator.page import facts, page, section, table
from orchestrator.simulator.scatter import Spent, scatter_plot
from orchestrator.simulator.scenario import Subject, fleet_text
from orchestrator.simulator.tune import Trial, Tuned
from stages.types import Stage


def ratio_text(trial: Trial) -> str:
    """Return counts as E:P:D."""
    return ":".join(str(trial.counts[stage]) for stage in Stage)


def trial_figures(tuned: Tuned) -> Figures:
    """Return the trials in the order that they were made."""
    rows = [
        (
            *[str(trial.counts[stage]) for stage in Stage],
            percent_text(trial.summary.attainment),
            f"{trial.summary.gpu_hours:,.2f}",
            f"{trial.summary.cost_usd:,.2f}",
        )
        for trial in tuned.trials
    ]
    return Figures((*Stage, "attained", "GPU-h", "cost $"), rows)


def tune_report(subject: Subject, tuned: Tuned) -> str:
    """Return the text of an HTML file; equal searches give equal texts."""
    best, work = tuned.best, subject.workload
    spent = [
        Spent(
            name=ratio_text(trial),
            gpu_hours=trial.summary.gpu_hours,
            attainment=trial.summary.attainment,
            chosen=trial is best,
        )
        for trial in tuned.trials
    ]
    parts = [
        facts(
            {
                "policy": f"{subject.policy.service}, model {subject.policy.model.name}",
                "requests": f"{len(work):,} of {work.name} ({work.label})",
                "fleet": fleet_text(subject.nodes),
                "seed": str(best.summary.seed),
                "E:P:D": ratio_text(best) + ("" if best.attained else ", which does not attain the SLO"),
                "spent": f"{best.summary.gpu_hours:,.2f} GPU-hours, ${best.summary.cost_usd:,.2f}",
                "attained": percent_text(best.summary.attainment),
            }
        ),
        section(
            "Points searched",
            "Each with its E:P:D. The cheapest that attains the SLO is marked.",
            [scatter_plot("GPU-hours against attainment", spent, subject.control.attainment)],
        ),
        f"<h2>In the order of the search</h2>\n{table(trial_figures(tuned))}",
    ]
    return page(f"Fixed counts for {subject.policy.service}", parts, subject.notes)
