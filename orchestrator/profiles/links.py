"""`data/links.yaml`: how fast bytes go, by topology level."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.core.links import Link
from orchestrator.profiles.paths import DATA
from orchestrator.yaml_fields import STRICT, InfeasibleError, Name, NotNegative
from orchestrator.yaml_file import load_yaml, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """Between two accelerators for which this is the closest level that they share.

    Attributes:
        labels: Node labels that stand for this level, beside its name.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    bytes_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    latency_s: NotNegative
    labels: tuple[Name, ...] = ()
    source: Annotated[str, Field(min_length=1, max_length=500)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFile:
    """The whole file; `links` has the widest level first."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    apiVersion: Literal["tercet/links/v1"]  # noqa: N815
    links: Annotated[tuple[LinkFacts, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Links by topology level.

    Attributes:
        widest: Between accelerators that share no level.
        by_label: Between those that share a level, by its names.
    """

    widest: Link
    by_label: Mapping[str, Link]

    def of_levels(self, levels: Sequence[str]) -> tuple[Link, ...]:
        """Return the link between replicas that share n leading levels, for every n from 0.

        A level that is not known is as fast as the next wider one: so nothing is promised of it.
        """
        links = [self.widest]
        for level in levels:
            known = self.by_label.get(level) or self.by_label.get(level.rpartition("/")[2])
            links.append(known or links[-1])
        return tuple(links)


_ADAPTER = TypeAdapter(LinkFile)


def load_links(path: Path | str = DATA / "links.yaml") -> Links:
    """Return the links in a file.

    Raises:
        FileError: Says what is wrong with the file and where.
    """
    file = load_yaml(_ADAPTER, read_text(path), path, _wrong)
    links = [Link(bytes_per_s=facts.bytes_per_s, latency_s=facts.latency_s) for facts in file.links]
    labels = [(facts.name, *facts.labels) for facts in file.links]
    return Links(
        widest=links[0],
        by_label={label: link for link, names in zip(links, labels, strict=True) for label in names},
    )


def _wrong(file: LinkFile) -> Iterator[InfeasibleError]:
    for at, (wider, closer) in enumerate(zip(file.links, file.links[1:], strict=False), 1):
        if closer.bytes_per_s < wider.bytes_per_s:
            message = f"{closer.name} is slower than {wider.name}, which is wider"
            yield InfeasibleError(message, "links", at, "bytes_per_s")
    names = [name for facts in file.links for name in (facts.name, *facts.labels)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield InfeasibleError(f"{name} stands for two levels", "links")
