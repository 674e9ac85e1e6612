"""The rules: a stack can work, costs no more than allowed, and keeps its SLOs in the simulation."""

from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    ReportViolation,
    StackValidationArgs,
    StackValidationPolicy,
)

from infra.config import ConfigError
from infra.feasible import infeasibilities
from infra.preview import Figures, below_target
from infra.program import selected

_STACK = "pulumi:pulumi:Stack"


def _can_work(_args: StackValidationArgs, report: ReportViolation) -> None:
    """Report what the selected stack's configuration asks for in vain."""
    try:
        _, stack, hardware = selected()
        found = list(infeasibilities(stack, hardware))
    except ConfigError as error:
        found = [str(error)]
    for text in found:
        report(text, None)


def _is_affordable(args: StackValidationArgs, report: ReportViolation) -> None:
    limits = args.get_config()
    if not limits:
        args.not_applicable("no limit is configured")
    for text in too_dear(_simulated(args), limits):
        report(text, None)


def _keeps_slos(args: StackValidationArgs, report: ReportViolation) -> None:
    for text in below_target(_simulated(args)):
        report(text, None)


def too_dear(figures: Figures, limits: Mapping[str, Any]) -> Iterator[str]:
    """Yield what costs more than allowed, or may.

    Args:
        figures: The program's output `simulated`; empty if it predicts nothing.
        limits: In USD: `usd_per_month` of what replicas take, `pools_usd_per_month` of all nodes that the
            pools may have.
    """
    if not figures:
        yield "nothing is predicted: let `tercet:preview` simulate"
        return
    if "pools_usd_per_month" in limits:
        dearest = figures["pools"]["cost_per_month_usd"]
        yield from _over(dearest, limits["pools_usd_per_month"], "all nodes of the pools")
    if "usd_per_month" in limits:
        yield from (f"what is not simulated may cost anything: {why}" for why in figures["not_simulated"])
        taken = figures.get("total", {}).get("cost_per_month_usd", 0.0)
        yield from _over(taken, limits["usd_per_month"], "what replicas take by the simulation")


def _over(usd: float, limit_usd: float, what: str) -> Iterator[str]:
    if usd > limit_usd:
        yield f"{what}: ${usd:,.0f} a month is more than the ${limit_usd:,.0f} allowed"


def _simulated(args: StackValidationArgs) -> Figures:
    """Return the program's output of that name; empty if there is none."""
    stacks = (each.props for each in args.resources if each.resource_type == _STACK)
    return next((props["simulated"] for props in stacks if "simulated" in props), {})


_USD = {"type": "number", "minimum": 0}

RULES: list[Policy] = [
    StackValidationPolicy(
        name="can-work",
        description="Every service can run on the declared node pools.",
        validate=_can_work,
        enforcement_level=EnforcementLevel.MANDATORY,
    ),
    StackValidationPolicy(
        name="is-affordable",
        description="The stack costs no more than is allowed.",
        validate=_is_affordable,
        enforcement_level=EnforcementLevel.MANDATORY,
        config_schema=PolicyConfigSchema({"usd_per_month": _USD, "pools_usd_per_month": _USD}),
    ),
    StackValidationPolicy(
        name="keeps-slos",
        description="Every service attains its policy's slo.attainment in the simulation.",
        validate=_keeps_slos,
        enforcement_level=EnforcementLevel.ADVISORY,
    ),
]
