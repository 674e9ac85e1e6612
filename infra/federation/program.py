"""The Pulumi program of a federation: outputs of its members' stacks in, a controller out."""

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from infra.components.parts import Federation
from infra.config import ConfigError
from infra.federation.config import facts_of, federation_args, parse_federation
from infra.objects.federation import FederationArgs, federation_spec
from infra.objects.names import Object
from infra.program import ROOT
from orchestrator.control_policy import Hardware


def main() -> None:
    """Declare the federation that is selected.

    Raises:
        pulumi.RunError: Its configuration cannot be used; the message says where.
    """
    try:
        config = parse_federation({**get_config_env(), **CONFIG.get()}, pulumi.get_stack())
        args = federation_args(config, ROOT, Hardware.load())
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from error
    declare(args)


def declare(args: FederationArgs) -> None:
    """Declare the controller, told what its members' stacks say of themselves."""
    references = {each.name: pulumi.StackReference(each.name, each.stack) for each in args.members}
    outputs = {name: reference.get_output("member") for name, reference in references.items()}
    Federation(args, pulumi.Output.all(**outputs).apply(lambda found: _spec(args, found)))


def _spec(args: FederationArgs, outputs: dict[str, object]) -> Object:
    try:
        return federation_spec(args, facts_of(outputs, args))
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from error
