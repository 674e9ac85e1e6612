"""The mean request of a workload, for answers that need no simulation."""

import numpy as np

from orchestrator.core.profile import ModelProfile
from orchestrator.core.stage_work import Demand
from orchestrator.simulator.work import work_from_rows
from orchestrator.simulator.workload import Workload


def mean_demand(rows: Workload, model: ModelProfile) -> Demand:
    """Return the mean demand of a workload.

    Raises:
        ValueError: A rate cannot be told: there are no requests, or all come at one moment.
    """
    if not len(rows) or rows.span_s <= 0.0:
        raise ValueError(f"{rows.name}: a rate needs requests at two moments at least")
    work = work_from_rows(rows, model)
    return Demand(
        requests_per_s=rows.rate_per_s,
        images=float(np.mean(work.images)),
        image_share=float(np.mean(work.images > 0)),
        text_tokens=float(np.mean(work.text_tokens)),
        output_tokens=float(np.mean(rows.output_tokens)),
    )
