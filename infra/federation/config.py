"""A federation's configuration: keys `tercet-federation:...` to frozen values, or what is wrong."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from infra.config import ConfigError, ImagesConfig, parse
from infra.config_fields import DnsLabel, Port
from infra.objects.federation import FederationArgs, MemberArgs, MemberFacts
from infra.objects.redis_access import REDIS_PORT
from infra.service_policy import read_policy
from orchestrator.control_policy import Hardware, load_control_policy
from orchestrator.policy import Policy
from orchestrator.yaml_fields import STRICT, InfeasibleError, Name
from orchestrator.yaml_file import FileError

PREFIX = "tercet-federation:"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """One cluster.

    Attributes:
        stack: Its stack, as `organization/project/stack`.
        secret: Name of a Secret in the federation's namespace: `kubeconfig`, with the token of the stack's
            account `tercet-controller`; `url`, where its Redis is reached from here, or `url-0` and so on of
            several shards; `ca.crt`, if the stack's Redis has TLS.
        redis_port: Port of those URLs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    stack: Name
    secret: DnsLabel
    redis_port: Port = REDIS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationConfig:
    """Everything that one federation says.

    Attributes:
        members: By the name that its controller has for a cluster.
        services: Their policy files, relative to the project; each is a service of every member.
        namespace: Made by the program, in the cluster where the controller runs.
        image: Of the controller.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    members: Annotated[Mapping[DnsLabel, MemberConfig], Field(min_length=2)]
    services: Annotated[Mapping[DnsLabel, Name], Field(min_length=1)]
    namespace: DnsLabel = "tercet-federation"
    image: Name = ImagesConfig().tercet

    def __post_init__(self) -> None:
        stacks: dict[str, str] = {}
        for name, member in self.members.items():
            if member.stack in stacks:
                raise InfeasibleError(f"is the stack of {stacks[member.stack]} too", "members", name, "stack")
            stacks[member.stack] = name


_ADAPTER = TypeAdapter(FederationConfig)


def parse_federation(values: Mapping[str, str], stack: str) -> FederationConfig:
    """Return the configuration in Pulumi's values by full key.

    Raises:
        ConfigError: Names every wrong key, and the nearest valid one of an unknown one.
    """
    return parse(_ADAPTER, values, PREFIX, f"Pulumi.{stack}.yaml")


def federation_args(config: FederationConfig, root: Path, hardware: Hardware) -> FederationArgs:
    """Return what to build.

    Args:
        config: Of the federation.
        root: Folder that policy paths start from.
        hardware: Facts that policies are held against.

    Raises:
        ConfigError: A policy cannot be used, or topology levels differ.
    """
    policies = [_policy(name, root / config.services[name], hardware) for name in sorted(config.services)]
    levels = {policy.topology.levels for policy, _ in policies}
    if len(levels) > 1:
        raise ConfigError(f"`{PREFIX}services`: services of one controller share topology.levels")
    return FederationArgs(
        namespace=config.namespace,
        image=config.image,
        policies=tuple(policies),
        members=tuple(
            MemberArgs(name=name, stack=member.stack, secret=member.secret, redis_port=member.redis_port)
            for name, member in sorted(config.members.items())
        ),
    )


def _policy(name: str, file: Path, hardware: Hardware) -> tuple[Policy, str]:
    key = f"{PREFIX}services.{name}"
    found = read_policy(key, name, file)
    try:
        load_control_policy(file, hardware)
    except FileError as error:
        raise ConfigError(f"`{key}`: {error}") from error
    return found


def facts_of(outputs: Mapping[str, Any], args: FederationArgs) -> Mapping[str, MemberFacts]:
    """Return what the members say of themselves.

    Args:
        outputs: The output `member` of each member's stack, by the member's name; None without one.
        args: Of the federation.

    Raises:
        ConfigError: Says of each stack that is no member, or one of other services, what to do.
    """
    facts = {member.name: _facts(member, outputs[member.name]) for member in args.members}
    if problems := list(_misfits(facts, args)):
        raise ConfigError("\n".join(problems))
    return facts


def _facts(member: MemberArgs, output: Any) -> MemberFacts:
    if output is None:
        message = (
            "is no member of a federation: set `tercet:controller: federation` there, and run `pulumi up`"
        )
        raise ConfigError(f"`{PREFIX}members.{member.name}`: {member.stack} {message}")
    try:
        return TypeAdapter(MemberFacts).validate_python(output)
    except ValidationError as error:
        raise ConfigError(f"`{PREFIX}members.{member.name}`: {member.stack} is of another version") from error


def _misfits(facts: Mapping[str, MemberFacts], args: FederationArgs) -> Iterator[str]:
    for name, each in facts.items():
        if missing := set(args.services) - set(each.services):
            yield f"`{PREFIX}members.{name}`: has no {', '.join(sorted(missing))} to be scaled"
        if unscaled := set(each.services) - set(args.services):
            yield f"`{PREFIX}services`: nobody scales {', '.join(sorted(unscaled))} of {name}"
