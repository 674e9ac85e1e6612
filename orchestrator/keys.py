"""API keys: who may call, and how far they may push themselves forward."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from orchestrator.core.waiting import PRIORITY_RANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key.

    Attributes:
        name: For logs; the key itself is never logged.
        max_priority: Highest `x-tercet-priority` that counts, -100 to 100.
    """

    name: str
    secret: str = field(repr=False)
    max_priority: int = 0


class ApiKeys:
    """The keys of a gateway; without any, everybody on the loopback interface may call."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys

    def check(self, authorization: str | None) -> ApiKey | None:
        """Return the caller's key, or None if there is none or it is unknown."""
        scheme, _, secret = (authorization or "").partition(" ")
        given = secret.strip().encode() if scheme.lower() == "bearer" else b""
        found = None
        # Every key is compared, so that the time taken tells nothing.
        for key in self._keys:
            if hmac.compare_digest(key.secret.encode(), given):
                found = key
        return found


OPEN = ApiKey(name="loopback", secret="", max_priority=PRIORITY_RANGE)


def load_keys(path: Path) -> ApiKeys:
    """Read a keys file: a YAML list of `{name, key, max_priority}`.

    Raises:
        ValueError: Names the entry that is wrong.
    """
    try:
        entries = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name a YAML list of entries with name and key") from None
    except (yaml.YAMLError, UnicodeDecodeError):  # their messages quote the file, and so the keys
        raise ValueError(f"{path}: no YAML; expected a list of entries with name and key") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of entries with name and key")
    keys = tuple(_key(path, number, entry) for number, entry in enumerate(entries, 1))
    secrets = [key.secret for key in keys]
    for number, secret in enumerate(secrets, 1):
        first = secrets.index(secret) + 1
        if first != number:
            raise ValueError(f"{path}: entry {number}: the key of entry {first} again")
    return ApiKeys(keys)


def _key(path: Path, number: int, entry: object) -> ApiKey:
    if not isinstance(entry, dict) or set(entry) - {"name", "key", "max_priority"}:
        raise ValueError(f"{path}: entry {number}: allowed keys are name, key, max_priority")
    name, secret, most = entry.get("name"), entry.get("key"), entry.get("max_priority", 0)
    if not isinstance(name, str) or not isinstance(secret, str) or len(secret) < 16:
        raise ValueError(f"{path}: entry {number}: name and a key of at least 16 characters are needed")
    if not isinstance(most, int) or not -PRIORITY_RANGE <= most <= PRIORITY_RANGE:
        raise ValueError(
            f"{path}: entry {number}: max_priority must be -{PRIORITY_RANGE} to {PRIORITY_RANGE}"
        )
    return ApiKey(name=name, secret=secret, max_priority=most)
