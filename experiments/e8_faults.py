"""E8: how do scaling policies bear what goes wrong?"""

from collections.abc import Mapping

import numpy as np

from experiments.goals import goal
from experiments.point import Experiment, Findings, Point, Row, Scale, Section, point
from experiments.services import day, figures, subject, with_burst
from experiments.stats import interval
from experiments.write import table
from orchestrator.simulator.evaluate import evaluate
from orchestrator.simulator.faults import Fault, MetricLoss, NodeLoss, QuotaCut, StuckProvisioner, ZoneLoss
from orchestrator.simulator.scenario import Subject
from orchestrator.simulator.summary import HOUR_S

POLICIES = ("coupled", "modserve", "heteroscale", "hpa")
QUICK_POLICIES = ("coupled", "hpa")
BURST_AT_S = 1.0 * HOUR_S
FAULTS: Mapping[str, tuple[Fault, ...]] = {
    "none": (),
    "metrics lost in the burst": (MetricLoss(at_s=BURST_AT_S + 60.0, for_s=600.0),),
    "metrics lost when it is calm": (MetricLoss(at_s=0.5 * HOUR_S, for_s=900.0),),
    "provisioner stuck in the burst": (StuckProvisioner(at_s=BURST_AT_S, for_s=900.0),),
    "a node lost": (NodeLoss(at_s=0.7 * HOUR_S, for_s=1_800.0),),
    "a node lost during scale-in": (NodeLoss(at_s=1.5 * HOUR_S, for_s=1_800.0),),
    "a rack lost": (ZoneLoss(at_s=0.7 * HOUR_S, for_s=1_800.0, domain="a100-0"),),
    "quota halved in the burst": (QuotaCut(at_s=BURST_AT_S, for_s=1_200.0, hardware="a100", most=48),),
}


def service(seed: int) -> Subject:
    """Return two hours of the twin with six times the image requests for ten minutes."""
    rng = np.random.default_rng((seed, 8))
    work = day(seed, hours=2.0, rate=1.5, begin_h=8.0)
    return subject(
        "internvl-26b", with_burst(work, at_s=BURST_AT_S, for_s=600.0, factor=6.0, rng=rng), "a100=16x8"
    )


def points(scale: Scale) -> list[Point]:
    """Return every fault under every policy, or under two of them."""
    policies = QUICK_POLICIES if scale.quick else POLICIES
    return [point(fault=fault, policy=policy) for fault in FAULTS for policy in policies]


def measure(at: Point, seed: int, scale: Scale) -> Row:
    """Return the figures with the policy's defaults."""
    summary = evaluate([service(seed)], at.text("policy"), [None], seed, FAULTS[at.text("fault")])
    return {**figures(summary), "unended": float(summary.endings["failed"])}


def written(findings: Findings) -> Section:
    """Return attainment and GPU-hours by fault and policy, and requests that had no end."""
    parts, policies = [], list(dict.fromkeys(at.text("policy") for at in findings.points()))
    for figure, factor, title in (("attainment", 100.0, "Attained %"), ("gpu_hours", 1.0, "GPU-hours")):
        rows = [
            (
                fault,
                *[
                    interval(
                        [factor * v for v in findings.values(point(fault=fault, policy=policy), figure)]
                    ).text
                    for policy in policies
                ],
            )
            for fault in FAULTS
        ]
        parts.append(f"{title}\n\n{table(('fault', *policies), rows)}")
    lost = sum(sum(findings.values(p, "unended")) for p in findings.points())
    what = (
        "whatever fails, every request ends by answer, refusal or deadline; those that did not, over all runs"
    )
    parts.append(goal(what, interval([lost]), high=0.0))
    return Section(text="\n".join(parts), plots={})


E8 = Experiment(
    name="E8",
    title="What goes wrong, by policy",
    figure="attainment",
    points=points,
    measure=measure,
    expected_s=lambda at, scale: 8.0,
    written=written,
)
