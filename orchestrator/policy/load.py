"""Policy file to `Policy`, or a list of everything that is wrong with it and where."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from orchestrator import yaml_file
from orchestrator.policy.values import Policy
from orchestrator.yaml_fields import InfeasibleError
from orchestrator.yaml_file import FileError

_ADAPTER = TypeAdapter(Policy)


class PolicyError(FileError):
    """A policy file that cannot be used."""


def load_policy(path: Path | str) -> Policy:
    """Return the policy in a file.

    Raises:
        PolicyError: The file cannot be read, is not YAML, or is not a feasible policy.
    """
    return parse_policy(read_text(path), path)


def read_text(path: Path | str) -> str:
    """Return the text of a policy file.

    Raises:
        PolicyError: It cannot be read or is not UTF-8.
    """
    with _policy_errors():
        return yaml_file.read_text(path)


def parse_policy(text: str, path: Path | str) -> Policy:
    """Return the policy in `text`, which was read from `path`.

    Raises:
        PolicyError: As for `load_policy`.
    """
    folder = Path(path).parent
    with _policy_errors():
        return yaml_file.load_yaml(_ADAPTER, text, path, lambda policy: _missing_trace(policy, folder))


def policy_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of policy files, for editors."""
    return yaml_file.json_schema(_ADAPTER)


def _missing_trace(policy: Policy, folder: Path) -> Iterator[InfeasibleError]:
    trace = policy.demand.trace
    if trace and not (folder / trace).is_file():
        yield InfeasibleError(f"there is no file {trace} beside the policy", "demand", "trace")


@contextmanager
def _policy_errors() -> Iterator[None]:
    try:
        yield
    except FileError as error:
        raise PolicyError(error.problems) from error
