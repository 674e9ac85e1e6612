"""The Pulumi program: configuration in, components out."""

from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from infra.adopt import ProviderCluster, adopt
from infra.components.parts import (
    Base,
    Broker,
    Controller,
    Gateway,
    GpuNodePool,
    ModelService,
    Observability,
    Publisher,
)
from infra.config import ConfigError, StackConfig, parse_config
from infra.feasible import check_feasible
from infra.objects.federation import member_output
from infra.preview import Figures, below_target, predict
from infra.stack import StackArgs, stack_args
from orchestrator.control_policy import Hardware

ROOT = Path(__file__).parent.parent
"""Of the project, which policy paths start from."""


def main() -> None:
    """Declare the stack that is selected.

    Raises:
        pulumi.RunError: Its configuration cannot be used, or asks for what cannot be; the message says where.
    """
    try:
        config, args, hardware = selected()
        check_feasible(args, hardware)
        figures = predict(args, config.preview, ROOT, hardware) if config.preview.simulate else None
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from error
    declare(args)
    if figures:
        tell(figures)


def selected() -> tuple[StackConfig, StackArgs, Hardware]:
    """Return what the selected stack says, what it consists of, and the hardware facts that it went by.

    Raises:
        ConfigError: Its configuration cannot be used.
    """
    values = {**get_config_env(), **CONFIG.get()}
    config = adopt(parse_config(values, pulumi.get_stack()), ProviderCluster(values))
    hardware = Hardware.load()
    return config, stack_args(config, ROOT, hardware.accelerators), hardware


def declare(args: StackArgs) -> None:
    """Declare every component; each waits for the namespace alone."""
    inside = pulumi.ResourceOptions(depends_on=[Base(args.namespace)])
    for pool in args.node_pools:
        GpuNodePool(pool)
    Broker(args.broker, inside)
    for service in args.services:
        ModelService(service, inside)
    for gateway in args.gateways:
        Gateway(gateway, inside)
        pulumi.export(f"{gateway.service}-url", gateway.url)
    Publisher(args.publisher, inside)
    if args.controller:
        Controller(args.controller, inside)
        if args.controller.elsewhere:
            pulumi.export("member", member_output(args.controller))
    if args.observability:
        Observability(args.observability, inside)


def tell(figures: Figures) -> None:
    """Make predictions the stack's output `simulated`, and warn of services that would miss their SLO."""
    pulumi.export("simulated", figures)
    for text in below_target(figures):
        pulumi.log.warn(text)
