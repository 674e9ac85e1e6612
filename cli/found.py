"""What a search has found, as a table and as JSON."""

from collections.abc import Sequence
from typing import Any

from orchestrator.simulator.figures import Figures, percent_text
from orchestrator.simulator.search import Found


def found_figures(found: Sequence[Found]) -> Figures:
    """Return the parameters of each policy, and what they came to in training."""
    rows = [
        (
            each.scaling,
            str(len(each.trials)),
            f"{each.best.summary.gpu_hours:,.2f}",
            percent_text(each.best.summary.attainment),
            ", ".join(f"{name} {value:.3g}" for name, value in each.best.point.items()) or "–",
        )
        for each in found
    ]
    return Figures(
        ("policy", "trials", "GPU-h", "attained", "parameters found, figures of the training"), rows
    )


def found_as_json(found: Found) -> dict[str, Any]:
    """Return the parameters of a policy, and every trial that led to them."""
    return {
        "parameters": found.best.point,
        "attained": found.best.attained,
        "trials": [
            {
                "parameters": trial.point,
                "gpu_hours": trial.summary.gpu_hours,
                "attainment": trial.summary.attainment,
            }
            for trial in found.trials
        ],
    }
