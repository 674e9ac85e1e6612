"""E12: the same question as E4's, where replicas are many."""

from experiments.e4_policies import Setting, judged, written
from experiments.point import Experiment, Point, Row, Scale, point

POLICIES = ("oracle", "periodic", "coupled", "static-best", "hpa")
"""The oracle, and those that took at most 1.1 times its GPU-hours in E4."""
QUICK_POLICIES = ("oracle", "coupled", "hpa")


def points(scale: Scale) -> list[Point]:
    """Return each policy."""
    return [point(policy=name) for name in (QUICK_POLICIES if scale.quick else POLICIES)]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return what E4 does, of ten times the requests."""
    hours, trials = (0.25, 2) if scale.quick else (1.5, 5)
    setting = Setting(fleet="l40s=32x8,a100=64x8", times=10.0, hours=hours, trials=trials)
    return judged(at.text("policy"), seed, setting)


E12 = Experiment(
    name="E12",
    title="Scaling policies on 768 accelerators",
    figure="gpu_hours",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 15.0 if scale.quick else 110.0,
    written=written,
)
