"""How long simulated nodes and pods take to start, as annotations that the local cluster's KWOK reads."""

from orchestrator.core.profile import Accelerator, ColdStart
from orchestrator.kube_names import COLD_START, PROVISIONING


def pod_start(start: ColdStart, speed_up: float) -> dict[str, str]:
    """Return the annotations of a pod that pulls its image and loads its weights.

    The two times are one to KWOK, evenly spread between the sums of their bounds.

    Args:
        start: As the model's profile has it for the stage.
        speed_up: So many times quicker, above 0.
    """
    least, most = (pull_s + load_s for pull_s, load_s in zip(start.pull_s, start.load_s, strict=True))
    return _between(COLD_START, least / speed_up, most / speed_up)


def node_start(accelerator: Accelerator, speed_up: float) -> dict[str, str]:
    """Return the annotations of a node that is provisioned, `speed_up` times quicker than it is."""
    least_s, most_s = accelerator.provisioning_s
    return _between(PROVISIONING, least_s / speed_up, most_s / speed_up)


def _between(name: str, least_s: float, most_s: float) -> dict[str, str]:
    return {name: _duration(least_s), f"{name}-most": _duration(most_s)}


def _duration(seconds: float) -> str:
    return f"{round(1000 * seconds)}ms"
