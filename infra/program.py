"""The Pulumi program: configuration in, components out."""

from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from infra.adopt import adopt, finder
from infra.components.parts import Base, Broker, Controller, Gateway, GpuNodePool, ModelService
from infra.config import ConfigError, parse_config
from infra.stack import StackArgs, stack_args
from orchestrator.profiles import load_accelerators

ROOT = Path(__file__).parent.parent
"""Of the project, which policy paths start from."""


def main() -> None:
    """Declare the stack that is selected.

    Raises:
        pulumi.RunError: Its configuration cannot be used; the message names the keys.
    """
    try:
        values = {**get_config_env(), **CONFIG.get()}
        config = adopt(parse_config(values, pulumi.get_stack()), finder(values))
        args = stack_args(config, ROOT, load_accelerators())
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from error
    declare(args)


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
    if args.controller:
        Controller(args.controller, inside)
