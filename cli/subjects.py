"""What simulations are asked for: options that commands share, and what they name, loaded."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.refuse import MISTAKEN, refuse
from orchestrator.core.image_size import ImageSizeError
from orchestrator.policy import PolicyError
from orchestrator.simulator.auto_rate import RateError
from orchestrator.simulator.fault_spec import FaultError, check_faults, parse_fault
from orchestrator.simulator.faults import KINDS, Fault
from orchestrator.simulator.fleet_spec import FleetError
from orchestrator.simulator.scenario import NoTraceError, Subject, load_subjects
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.variant import Variant
from orchestrator.yaml_file import FileError

PolicyFile = Annotated[Path, typer.Option("--policy", help="Stage policy file.", dir_okay=False)]
PolicyFiles = Annotated[
    list[Path],
    typer.Option("--policy", help="Stage policy file; several share the fleet.", dir_okay=False),
]
Traces = Annotated[
    list[str] | None,
    typer.Option(
        "--trace",
        help="CSV or JSON lines of requests, or twin:PER_MINUTE.csv; one for each --policy, in their order. "
        "By default the policies' demand.trace.",
    ),
]
Trace = Annotated[
    str | None,
    typer.Option(
        help="CSV or JSON lines of requests, or twin:PER_MINUTE.csv; by default the policy's demand.trace."
    ),
]
Fleet = Annotated[
    str | None,
    typer.Option(help="Nodes, such as a100=16x8,l40s=8x8; by default room for every stage's max."),
]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0)]
RateScale = Annotated[
    str,
    typer.Option(
        help="Factor on the requests per second; auto: the busiest 5 minutes take 80 % of the fleet "
        "under its best fixed counts.",
        metavar="NUMBER|auto",
    ),
]
AsVariant = Annotated[
    Variant,
    typer.Option(help="The traces' images: at most 16 a request, all of them, or tiles of images."),
]
ImagePx = Annotated[
    int | None,
    typer.Option(help="Width and height of images; by default what the profile is for, 896.", min=1),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        help=f"What goes wrong, such as node-loss:at=3600,for=1800; any number of {', '.join(KINDS)}.",
    ),
]


def rate_scale_of(text: str) -> float | Literal["auto"]:
    """Return what `--rate-scale` says, or refuse it."""
    if text == "auto":
        return "auto"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.001 <= factor < math.inf:
        refuse(f"--rate-scale: {text!r} is neither auto nor a number from 0.001", MISTAKEN)
    return factor


def load_all(
    policies: Sequence[Path],
    traces: Sequence[str] | None,
    fleet: str | None = None,
    rate_scale: float | Literal["auto"] = 1.0,
    seed: int = 0,
    variant: Variant = Variant.CLIPPED,
    image_px: int | None = None,
) -> tuple[Subject, ...]:
    """Return what the options name, or refuse it; see `load_subjects`."""
    if rate_scale == "auto" and len(policies) > 1:
        refuse("--rate-scale auto is for one --policy", MISTAKEN)
    if traces and len(traces) != len(policies):
        refuse(f"{len(traces)} --trace for {len(policies)} --policy: give one for each, or none", MISTAKEN)
    chosen: Sequence[str | None] = traces or [None] * len(policies)
    try:
        return load_subjects(
            policies,
            chosen,
            fleet=fleet,
            rate_scale=rate_scale,
            variant=variant,
            image_px=image_px,
            seed=seed,
        )
    except ImageSizeError as error:
        refuse(f"--image-px: {error}", MISTAKEN)
    except (PolicyError, FileError, TraceError, FleetError, NoTraceError, RateError, OSError) as error:
        refuse(str(error), MISTAKEN)


def faults_of(texts: Sequence[str], subjects: Sequence[Subject]) -> list[Fault]:
    """Return what `--fault` says, or refuse it."""
    try:
        faults = [parse_fault(text) for text in texts]
        check_faults(faults, [subject.control.service for subject in subjects], subjects[0].nodes)
    except FaultError as error:
        refuse(f"--fault: {error}", MISTAKEN)
    return faults
