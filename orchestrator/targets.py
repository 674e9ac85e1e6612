"""`data/deployment_targets.yaml`: prices and limits of clouds, to the values that the advisor compares."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.core.stage_work import Processor
from orchestrator.core.targets import Function, Limits, Machine, Span, Target, TargetKind
from orchestrator.profiles import DATA
from orchestrator.yaml_fields import STRICT, InfeasibleError, Name, NotNegative
from orchestrator.yaml_file import load_yaml, read_text

DEFAULT_FILE = DATA / "deployment_targets.yaml"

Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where figures are from.

    Attributes:
        checked: Day on which the page was last read, YYYY-MM-DD; None if nobody read it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    url: Name
    checked: Day | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A price or a limit.

    Attributes:
        source: Key of the file's `sources`.
        unverified: Whether it was not read on that page, but recalled, derived or read elsewhere.
        note: Whatever a reader should know of it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    value: NotNegative
    source: Name
    unverified: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Seconds between two bounds; otherwise as `Figure`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    value: tuple[NotNegative, NotNegative]
    source: Name
    unverified: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.value[0] > self.value[1]:
            raise InfeasibleError(f"{self.value[0]:g} is above {self.value[1]:g}", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorFacts:
    """See `orchestrator.core.stage_work.Processor`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    flop_per_s: Figure
    bytes_per_s: Figure
    like: Name
    like_flop_per_s: Figure

    def __post_init__(self) -> None:
        for key in ("flop_per_s", "bytes_per_s", "like_flop_per_s"):
            if getattr(self, key).value == 0:
                raise InfeasibleError("must be above 0", key, "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """See `orchestrator.core.targets.Machine`.

    Attributes:
        network_bytes_per_s: Left out to take the targets' `payload_bytes_per_s`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hardware: Name
    accelerators: Annotated[int, Field(ge=0)]
    memory_bytes: Positive
    vcpus: Positive
    usd_per_h: Figure
    network_bytes_per_s: Figure | None = None

    def __post_init__(self) -> None:
        if (self.hardware == "cpu") != (self.accelerators == 0):
            raise InfeasibleError("hardware is cpu if, and only if, there are no accelerators", "hardware")
        if self.network_bytes_per_s and self.network_bytes_per_s.value == 0:
            raise InfeasibleError("must be above 0", "network_bytes_per_s", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFacts:
    """Calls that are billed.

    Attributes:
        memory_bytes: At most.
        bytes_per_vcpu: Memory that brings one vCPU along.
        usd_per_gb_s: For each `gb_bytes` of memory and second.
        gb_bytes: What the vendor calls a GB here.
        usd_per_call: On top.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    memory_bytes: Figure
    bytes_per_vcpu: Figure
    usd_per_gb_s: Figure
    gb_bytes: Positive = 2**30
    usd_per_call: Figure

    def __post_init__(self) -> None:
        for key in ("memory_bytes", "bytes_per_vcpu"):
            if getattr(self, key).value == 0:
                raise InfeasibleError("must be above 0", key, "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFacts:
    """See `orchestrator.core.targets.Limits`; a limit that is left out does not exist."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    call_s: Figure | None = None
    stream_s: Figure | None = None
    request_bytes: Figure | None = None
    response_bytes: Figure | None = None
    concurrency: Figure | None = None

    def __post_init__(self) -> None:
        for key in ("call_s", "request_bytes", "response_bytes", "concurrency"):
            figure = getattr(self, key)
            if figure and figure.value == 0:
                raise InfeasibleError("must be above 0", key, "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """See `orchestrator.core.targets.Target`.

    Attributes:
        note: Whatever a reader should know of it.
        idle_s: Left out if it is never scaled to zero.
        load_bytes_per_s: Left out to take the model's measured times.
        payload_bytes_per_s: Left out not to count it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    kind: TargetKind
    title: Name
    note: str = ""
    offered: bool = True
    function: FunctionFacts | None = None
    machines: tuple[Name, ...] = ()
    shares_machines: bool = False
    direct: bool = False
    usd_per_month: Figure | None = None
    usd_per_gb: Figure | None = None
    limits: LimitFacts = field(default_factory=LimitFacts)
    start_s: Bounds | None = None
    idle_s: Figure | None = None
    load_bytes_per_s: Figure | None = None
    payload_bytes_per_s: Figure | None = None

    def __post_init__(self) -> None:
        if self.offered and (self.function is None) == (not self.machines):
            raise InfeasibleError("a target has either a `function` or `machines`")
        if self.function and self.idle_s is None:
            raise InfeasibleError("a function is scaled to zero: it needs `idle_s`")
        if self.payload_bytes_per_s and self.payload_bytes_per_s.value == 0:
            raise InfeasibleError("must be above 0", "payload_bytes_per_s", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsFile:
    """The whole file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    apiVersion: Literal["tercet/targets/v1"]  # noqa: N815
    region: Name
    checked: Day
    sources: Mapping[Name, Source]
    processor: ProcessorFacts
    machines: Mapping[Name, MachineFacts]
    targets: Mapping[Name, TargetFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What the file says, as the advisor takes it.

    Attributes:
        region: That the prices are of.
        checked: Day of the file, YYYY-MM-DD.
        processor: What one vCPU reaches.
        targets: In the order of the file.
        notes: By target, empty if there is none.
        unverified: By target, dotted keys of its figures that nobody read at their source, its machines'
            included.
    """

    region: str
    checked: str
    processor: Processor
    targets: tuple[Target, ...]
    notes: Mapping[str, str]
    unverified: Mapping[str, tuple[str, ...]]


_ADAPTER = TypeAdapter(TargetsFile)


def load_targets(path: Path | str = DEFAULT_FILE) -> Targets:
    """Return the targets in a file.

    Raises:
        FileError: It cannot be read, is not YAML, has an unknown key, or names a source or a machine that it
            does not have.
    """
    return parse_targets(read_text(path), path)


def parse_targets(text: str, path: Path | str) -> Targets:
    """Return the targets in `text`, which was read from `path`.

    Raises:
        FileError: As for `load_targets`.
    """
    file = load_yaml(_ADAPTER, text, path, _dangling)
    return Targets(
        region=file.region,
        checked=file.checked,
        processor=_processor(file.processor),
        targets=tuple(_target(name, facts, file.machines) for name, facts in file.targets.items()),
        notes={name: facts.note for name, facts in file.targets.items()},
        unverified={name: _unverified(name, facts, file) for name, facts in file.targets.items()},
    )


def _dangling(file: TargetsFile) -> Iterator[InfeasibleError]:
    """Yield the names of sources and machines that the file does not define."""
    for keys, figure in _figures(file):
        if figure.source not in file.sources:
            yield InfeasibleError(f"there is no source {figure.source!r} in `sources`", *keys, "source")
    for name, target in file.targets.items():
        for machine in target.machines:
            if machine not in file.machines:
                yield InfeasibleError(
                    f"there is no machine {machine!r} in `machines`", "targets", name, "machines"
                )


def _figures(value: object, *keys: str) -> Iterator[tuple[tuple[str, ...], Figure | Bounds]]:
    """Yield every figure below a value, with its path."""
    if isinstance(value, Figure | Bounds):
        yield keys, value
    elif is_dataclass(value):
        for each in fields(value):
            yield from _figures(getattr(value, each.name), *keys, each.name)
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _figures(child, *keys, str(key))


def _unverified(name: str, facts: TargetFacts, file: TargetsFile) -> tuple[str, ...]:
    of_machines = {machine: file.machines[machine] for machine in facts.machines}
    figures = [*_figures(facts, "targets", name), *_figures(of_machines, "machines")]
    return tuple(".".join(keys) for keys, figure in figures if figure.unverified)


def _processor(facts: ProcessorFacts) -> Processor:
    return Processor(
        flop_per_s=facts.flop_per_s.value,
        bytes_per_s=facts.bytes_per_s.value,
        like=facts.like,
        like_flop_per_s=facts.like_flop_per_s.value,
    )


def _target(name: str, facts: TargetFacts, machines: Mapping[str, MachineFacts]) -> Target:
    return Target(
        name=name,
        kind=facts.kind,
        title=facts.title,
        offered=facts.offered,
        function=_function(facts.function) if facts.function else None,
        machines=tuple(_machine(each, machines[each]) for each in facts.machines),
        shares_machines=facts.shares_machines,
        direct=facts.direct,
        usd_per_month=_value(facts.usd_per_month, 0.0),
        usd_per_gb=_value(facts.usd_per_gb, 0.0),
        limits=_limits(facts.limits),
        start_s=Span(*facts.start_s.value) if facts.start_s else Span(0.0, 0.0),
        idle_s=_value(facts.idle_s, math.inf),
        load_bytes_per_s=_value(facts.load_bytes_per_s, 0.0),
        payload_bytes_per_s=_value(facts.payload_bytes_per_s, math.inf),
    )


def _machine(name: str, facts: MachineFacts) -> Machine:
    return Machine(
        name=name,
        hardware=facts.hardware,
        accelerators=facts.accelerators,
        memory_bytes=facts.memory_bytes,
        vcpus=facts.vcpus,
        usd_per_h=facts.usd_per_h.value,
        network_bytes_per_s=_value(facts.network_bytes_per_s, 0.0),
    )


def _function(facts: FunctionFacts) -> Function:
    memory = facts.memory_bytes.value
    return Function(
        memory_bytes=memory,
        vcpus=memory / facts.bytes_per_vcpu.value,
        usd_per_s=memory / facts.gb_bytes * facts.usd_per_gb_s.value,
        usd_per_call=facts.usd_per_call.value,
    )


def _limits(facts: LimitFacts) -> Limits:
    return Limits(
        call_s=_value(facts.call_s, math.inf),
        stream_s=_value(facts.stream_s, math.inf),
        request_bytes=_value(facts.request_bytes, math.inf),
        response_bytes=_value(facts.response_bytes, math.inf),
        concurrency=_value(facts.concurrency, math.inf),
    )


def _value(figure: Figure | None, otherwise: float) -> float:
    return figure.value if figure else otherwise
