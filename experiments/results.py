"""docs/results.md: everything that was measured, with the commands that made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.point import Experiment, Findings

TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An experiment with what came out."""

    experiment: Experiment
    findings: Findings


def written(answers: Sequence[Answer], *, date: str) -> tuple[str, Mapping[str, str]]:
    """Return the text of docs/results.md, and its plots by file name.

    Args:
        answers: In the order of the file.
        date: Day of writing.
    """
    sections = [(answer, answer.experiment.written(answer.findings)) for answer in answers]
    plots = {name: text for _, section in sections for name, text in section.plots.items()}
    body = "\n".join(_section(answer, section.text) for answer, section in sections)
    return f"{_head(answers, date)}\n{body}", plots


def _head(answers: Sequence[Answer], date: str) -> str:
    contents = "\n".join(
        f"- [{a.experiment.name}: {a.experiment.title}](#{_anchor(a)}), {a.findings.scale.name}"
        for a in answers
    )
    return (TEXTS / "head.md").read_text(encoding="utf-8").format(date=date, contents=contents)


def _section(answer: Answer, text: str) -> str:
    experiment, findings = answer.experiment, answer.findings
    seeds = len({m.seed for m in findings.measured})
    wall_s = sum(m.wall_s for m in findings.measured)
    codes = ", ".join(sorted({m.code for m in findings.measured}))
    command = f"tercet experiments {experiment.name}{' --quick' if findings.scale.quick else ''}"
    return (
        f"## {experiment.name}: {experiment.title}\n\n{_text(experiment.name)}\n\n"
        f"{findings.scale.name}: `{command}`, {len(findings.measured)} runs, up to {seeds} seeds, "
        f"{wall_s / 60.0:,.0f} minutes of one core; code and data {codes}.\n\n{text}"
    )


def _text(name: str) -> str:
    return (TEXTS / f"{name}.md").read_text(encoding="utf-8").strip()


def _anchor(answer: Answer) -> str:
    title = f"{answer.experiment.name}: {answer.experiment.title}".lower()
    kept = "".join(c for c in title if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def keep(folder: Path, text: str, plots: Mapping[str, str]) -> None:
    """Write results.md into a folder, and its plots into `results/` beside it.

    Raises:
        OSError: It cannot be written.
    """
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for name, plot in plots.items():
        (folder / "results" / name).write_text(plot, encoding="utf-8")
    (folder / "results.md").write_text(text, encoding="utf-8")
