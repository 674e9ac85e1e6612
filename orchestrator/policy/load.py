"""Policy file to `Policy`, or a list of everything that is wrong with it and where."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from orchestrator import yaml_file
from orchestrator.policy.values import Policy
from orchestrator.yaml_fields import InfeasibleError
from orchestrator.yaml_file import FileError

_ADAPTER = TypeAdapter(Policy)

Check = Callable[[Policy], Iterable[InfeasibleError]]
"""Yields what a policy asks for in vain; the errors' keys lead from the root of its file."""


class PolicyError(FileError):
    """A policy file that cannot be used."""


def load_policy(path: Path | str, check: Check = lambda _: ()) -> Policy:
    """Return the policy in a file.

    Args:
        path: The file.
        check: Asked about a policy that is right otherwise.

    Raises:
        PolicyError: The file cannot be read, is not YAML, or is not a feasible policy.
    """
    return parse_policy(read_text(path), path, check)


def read_text(path: Path | str) -> str:
    """Return the text of a policy file.

    Raises:
        PolicyError: It cannot be read or is not UTF-8.
    """
    with _policy_errors():
        return yaml_file.read_text(path)


def parse_policy(text: str, path: Path | str, check: Check = lambda _: ()) -> Policy:
    """Return the policy in `text`, which was read from `path`; otherwise like `load_policy`.

    Raises:
        PolicyError: As for `load_policy`.
    """
    folder = Path(path).parent

    def every_check(policy: Policy) -> Iterator[InfeasibleError]:
        missing = tuple(_missing_files(policy, folder))
        yield from missing or check(policy)

    with _policy_errors():
        return yaml_file.load_yaml(_ADAPTER, text, path, every_check)


def dump_policy(policy: Policy) -> bytes:
    """Return a policy as JSON, every field of it, for `restore_policy`."""
    return _ADAPTER.dump_json(policy)


def restore_policy(dumped: bytes) -> Policy:
    """Return the policy that `dump_policy` was given.

    Raises:
        ValueError: It is none, or one of another version.
    """
    return _ADAPTER.validate_json(dumped)


def policy_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of policy files, for editors."""
    return yaml_file.json_schema(_ADAPTER)


def _missing_files(policy: Policy, folder: Path) -> Iterator[InfeasibleError]:
    named = {("demand", "trace"): policy.demand.trace, ("model", "profile"): policy.model.profile}
    for keys, name in named.items():
        if name and not (folder / name).is_file():
            yield InfeasibleError(f"there is no file {name} beside the policy", *keys)


@contextmanager
def _policy_errors() -> Iterator[None]:
    try:
        yield
    except FileError as error:
        raise PolicyError(error.problems) from error
