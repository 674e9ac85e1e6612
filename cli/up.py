"""`tercet up`: the whole system on this machine."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.engines import engines_of, own_servers, starts_engines
from cli.paths import POLICIES, state_home
from cli.redis_server import NoRedisServer
from cli.refuse import MISTAKEN, refuse
from cli.supervisor import StartFailed, Supervisor, UpOptions
from localengine.environment import EngineMissing
from orchestrator.keys import load_keys
from orchestrator.model_front import model_front
from orchestrator.policy import Policy, PolicyError, load_policy
from stages.front import ModelUnavailable
from stages.models import MODELS
from stages.types import Stage


def up_command(
    model: Annotated[
        str | None, typer.Option(help="Built-in model: shorthand for --policy policies/MODEL.yaml.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="Stage policy file.", dir_okay=False)] = None,
    port: Annotated[int, typer.Option(help="Port of the OpenAI API.", min=1, max=65535)] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback only with --api-keys.")
    ] = "127.0.0.1",
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of /metrics; the API's plus 1 by default, 0 for none.")
    ] = None,
    replicas: Annotated[
        str, typer.Option(help="Workers per stage, such as encode=2,prefill=1,decode=2.")
    ] = "",
    engines: Annotated[
        str,
        typer.Option(
            help="Engine servers that run already, such as encode=http://HOST:PORT,prefill=…; without it, "
            "vLLM is started here for policies on `cpu`."
        ),
    ] = "",
    api_keys: Annotated[Path | None, typer.Option(help="File of API keys.", dir_okay=False)] = None,
    state: Annotated[Path | None, typer.Option(help="State folder.", file_okay=False)] = None,
) -> None:
    """Run Redis, a gateway and workers on this machine until Ctrl-C."""
    policy_file = _policy_file(model, policy)
    try:
        loaded = load_policy(policy_file)
        if not loaded.served:
            _check_built_in(policy_file, loaded)
        starts = starts_engines(engines, loaded)
        servers = {} if starts else engines_of(engines, loaded)
        options = UpOptions(
            policy_file=policy_file.resolve(),
            policy=loaded,
            host=host,
            port=port,
            metrics_port=port + 1 if metrics_port is None else metrics_port,
            replicas={s: len(urls) for s, urls in servers.items()} or _replicas(replicas, loaded),
            engines=servers,
            token_bytes=model_front(loaded, policy_file).kv_bytes_per_token,
            state_dir=(state or state_home(port)).resolve(),
            keys_file=api_keys.resolve() if api_keys else None,
        )
        if api_keys:
            load_keys(api_keys)
        elif not _is_loopback(host):
            refuse(f"{host} is not a loopback address; give --api-keys FILE, or leave --host out", MISTAKEN)
        for name, number in (("--port", options.port), ("--metrics-port", options.metrics_port)):
            _check_free(name, host, number)
    except (PolicyError, ValueError) as error:
        refuse(str(error), MISTAKEN)
    say = partial(typer.echo, err=True)
    say(f"state in {options.state_dir}")
    try:
        if not loaded.served:
            MODELS[loaded.model.name].prepare(say)
        if starts:
            own = own_servers(loaded, options.replicas, options.state_dir, say)
            options = replace(options, servers=own)
        say(f"starting redis, a gateway and {_in_words(options.replicas)} …")
        asyncio.run(Supervisor(options, typer.echo).run())
    except (StartFailed, NoRedisServer, ModelUnavailable, EngineMissing) as error:
        refuse(str(error), MISTAKEN)


def _policy_file(model: str | None, policy: Path | None) -> Path:
    if policy and model:
        refuse("--model and --policy exclude each other: a policy file names its model", MISTAKEN)
    if policy:
        if not policy.exists():
            next_step = "leave --policy out to serve the built-in model tiny"
            refuse(f"there is no policy file {policy}; {next_step}", MISTAKEN)
        return policy
    built_in = POLICIES / f"{model or 'tiny'}.yaml"
    if not built_in.exists():
        known = ", ".join(sorted(MODELS))
        refuse(f"there is no model {model}; built-in models: {known}", MISTAKEN)
    return built_in


def _replicas(text: str, policy: Policy) -> dict[Stage, int]:
    """Parse `encode=2,decode=3`; a stage that is not named gets the policy's minimum, at least one.

    Raises:
        ValueError: Names the part that is wrong.
    """
    used = policy.used_stages
    counts = {stage: max(1, policy.stages[stage].min) for stage in used}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name.strip() not in used or not count.strip().isdigit() or int(count) < 1:
            raise ValueError(f"--replicas: {part!r} is not STAGE=COUNT with a stage of {', '.join(used)}")
        counts[Stage(name.strip())] = int(count)
    return counts


def _check_built_in(policy_file: Path, policy: Policy) -> None:
    """Refuse a policy for engines that run elsewhere.

    Raises:
        ValueError: Names the field and what to do.
    """
    known = ", ".join(sorted(MODELS))
    next_step = f"`tercet up` runs the built-in models ({known}); try `tercet up --model tiny`"
    for stage in Stage:
        engine = policy.stages[stage].engine
        if engine not in MODELS:
            raise ValueError(f"{policy_file}: stages.{stage}.engine: {engine} is not built in; {next_step}")
        if engine != policy.model.name:
            raise ValueError(
                f"{policy_file}: stages.{stage}.engine: {engine} does not run the model "
                f"{policy.model.name}; {next_step}"
            )


def _check_free(option: str, host: str, port: int) -> None:
    """Raise ValueError if a port cannot be listened on. 0 stands for none."""
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is no port; choose one with {option}, 0 for none")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            foreign = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            told = f"cannot listen on {host} port {port}: {error.strerror}; choose another with "
            raise ValueError(told + ("--host" if foreign else option)) from None


def _in_words(replicas: Mapping[Stage, int]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in replicas.items())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
