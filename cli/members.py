"""Which clusters `tercet controller` is asked to control: one, or several that are given by name."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


class Mistaken(ValueError):
    """Options that do not go together; the message says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One cluster.

    Attributes:
        name: Within the federation; empty where there is one cluster.
        kubeconfig: How to reach it; None: as `client_of` has it.
        namespace: Where its pools are.
        redis_urls: Of its stack's shards, in order.
    """

    name: str
    kubeconfig: Path | None
    namespace: str
    redis_urls: tuple[str, ...]


def members_of(
    clusters: Sequence[str],
    redis_urls: Sequence[str],
    namespaces: Sequence[str],
    kubeconfig: Path | None,
) -> list[Member]:
    """Return the cluster, or those that have names, from options as they were given.

    No message has a URL in it, as that may hold a password.

    Args:
        clusters: NAME=KUBECONFIG.
        redis_urls: URL, or NAME=URL where clusters have names.
        namespaces: NAMESPACE, or NAME=NAMESPACE for one that differs.
        kubeconfig: Of one cluster.

    Raises:
        Mistaken: They do not go together.
    """
    if not clusters:
        if len(namespaces) > 1:
            raise Mistaken(
                "one cluster has one --namespace; several are given with --cluster NAME=KUBECONFIG"
            )
        return [Member(name="", kubeconfig=kubeconfig, namespace=namespaces[0], redis_urls=tuple(redis_urls))]
    if kubeconfig is not None:
        raise Mistaken(
            "--kubeconfig is of one cluster; of several each is named by --cluster NAME=KUBECONFIG"
        )
    files = _files(clusters)
    urls = _by_name("--redis-url", "URL", redis_urls, files)
    apart = _by_name("--namespace", "NAMESPACE", [each for each in namespaces if "=" in each], files)
    common = [each for each in namespaces if "=" not in each] or ["default"]
    if len(common) > 1 or any(len(given) > 1 for given in apart.values()):
        raise Mistaken("two namespaces of one cluster; name another one's with --namespace NAME=NAMESPACE")
    if silent := [name for name in files if not urls[name]]:
        raise Mistaken(f"no Redis of {', '.join(silent)}; add --redis-url {silent[0]}=URL")
    return [
        Member(
            name=name,
            kubeconfig=files[name],
            namespace=(apart[name] or common)[0],
            redis_urls=tuple(urls[name]),
        )
        for name in files
    ]


def _files(clusters: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for given in clusters:
        name, _, path = given.partition("=")
        if not path:
            raise Mistaken(f"--cluster {given}: write --cluster NAME=KUBECONFIG")
        if not _NAME.fullmatch(name):
            raise Mistaken(f"--cluster {given}: names have small letters, digits and hyphens, at most 40")
        if name in files:
            raise Mistaken(f"two clusters are called {name}; give each a name of its own")
        if not Path(path).is_file():
            raise Mistaken(f"--cluster {given}: {path} is no file")
        files[name] = Path(path)
    return files


def _by_name(option: str, what: str, given: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    """Return values by name, in the order in which they were given."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for each in given:
        name, _, value = each.partition("=")
        if name not in found or not value:
            shown = (
                f"there is no cluster {name}" if value and _NAME.fullmatch(name) else "it names no cluster"
            )
            raise Mistaken(f"{option}: {shown}; write {option} NAME={what} with one of {', '.join(found)}")
        found[name].append(value)
    return found
