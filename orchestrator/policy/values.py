"""The nouns of a policy file: frozen values, named as their keys in the file.

Ranges stand beside the fields for `orchestrator.policy.load`, which checks a file against them; what
spans several fields is checked on construction. docs/policy.md explains each field to its users.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from orchestrator.core.admission import AdmissionBounds
from orchestrator.core.scaling import SCALERS
from orchestrator.core.types import Split
from orchestrator.core.waiting import WaitingParams
from orchestrator.policy.requests import AdmissionPolicy, SloPolicy
from orchestrator.policy.scaling import ScalingPolicy, named_counts
from orchestrator.yaml_fields import STRICT, Count, InfeasibleError, Name, NotNegative, Seconds
from stages.types import Modality, Stage

Engine = Literal["tiny", "smollm2", "noop", "vllm", "sglang", "openai"]
SERVERS: frozenset[Engine] = frozenset({"vllm", "sglang", "openai"})
"""Engines that are servers of their own."""
UNSPLIT: frozenset[Engine] = frozenset({"openai"})
"""Of those, the ones that do all stages of a request or none."""
ROLE_SWITCH_FLAG = "--enable-pd-role-switch"
"""Of SGLang's servers that prefill or decode: each can become one of the other."""
Edge = Literal["encode-prefill", "prefill-decode"]
AUTO_EDGES: Mapping[Edge, str] = {"encode-prefill": "auto", "prefill-decode": "auto"}

ServiceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """The model that all stages run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Annotated[Name, Field(description="Name that clients ask for.")]
    kappa: Annotated[
        Literal[0, 1],
        Field(description="1 if image tokens also load prefill (decoder-only models), 0 if not."),
    ] = 1
    max_context: Annotated[
        Count | None, Field(description="Positions at most, prompt and completion; null: the model's own.")
    ] = None
    profile: Annotated[
        Name | None, Field(description="Profile file, relative to the policy file; null: found by name.")
    ] = None
    weights: Annotated[
        Name | None,
        Field(description="What engine servers load: a folder or a repository's name; null: the name."),
    ] = None
    modalities: Annotated[
        tuple[Modality, ...],
        Field(description="What engine servers read besides text; built-in models know it themselves."),
    ] = (Modality.IMAGE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePolicy:
    """What one stage runs on and how many replicas of it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    engine: Annotated[Engine, Field(description="What computes the stage.")]
    hardware: Annotated[
        tuple[Name, ...], Field(min_length=1, description="Hardware classes it may run on, best first.")
    ] = ("cpu",)
    tp: Annotated[Count, Field(description="Tensor parallel degree of one replica.")] = 1
    batch: Annotated[Count, Field(description="Requests in one replica's batch; its slots.")] = 8
    min: Annotated[int, Field(ge=0, description="Replicas at least.")] = 1
    max: Annotated[Count, Field(description="Replicas at most.")] = 8
    budget_s: Annotated[
        Seconds, Field(description="Seconds of waiting and work the stage may add to the first token.")
    ] = 0.5
    flags: Annotated[
        tuple[Name, ...],
        Field(description="Further flags of the engine server's command line, values as `--flag=value`."),
    ] = ()
    drain_s: Annotated[
        Count, Field(description="Seconds that a replica on a cluster has to finish once it is told to go.")
    ] = 60
    hedge_s: Annotated[
        Seconds | None,
        Field(description="A hop that a replica has had for so long goes to another too; not of decode."),
    ] = None

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise InfeasibleError(f"max {self.max} is below min {self.min}", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePolicies:
    """One policy per stage; `stages[Stage.ENCODE]` is `stages.encode`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    encode: StagePolicy
    prefill: StagePolicy
    decode: StagePolicy

    def __post_init__(self) -> None:
        if self.decode.hedge_s is not None:
            raise InfeasibleError("decode has no second try beside the first: it streams", "decode.hedge_s")

    def __getitem__(self, stage: Stage) -> StagePolicy:
        return {Stage.ENCODE: self.encode, Stage.PREFILL: self.prefill, Stage.DECODE: self.decode}[stage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Weight of each scorer; 0 leaves it out. The names are those of `router.SCORERS`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    pending_tokens: Annotated[NotNegative, Field(description="Favours the least pending work.")] = 0.0
    cache_affinity: Annotated[
        NotNegative, Field(description="Favours the replica that should have this image cached.")
    ] = 0.0
    prefix: Annotated[NotNegative, Field(description="Favours the longest cached prefix of the prompt.")] = (
        0.0
    )
    free_kv: Annotated[NotNegative, Field(description="Favours the most free KV cache.")] = 0.0

    def __post_init__(self) -> None:
        if not self.in_use:
            raise InfeasibleError("every weight is 0: nothing would tell replicas apart")

    @property
    def in_use(self) -> Mapping[str, float]:
        """Weights above 0 by scorer name, as `route` takes them."""
        every = {
            "pending_tokens": self.pending_tokens,
            "cache_affinity": self.cache_affinity,
            "prefix": self.prefix,
            "free_kv": self.free_kv,
        }
        return {name: weight for name, weight in every.items() if weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """How each stage's router ranks replicas."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    encode: Weights = Weights(pending_tokens=1.0, cache_affinity=2.0)
    prefill: Weights = Weights(pending_tokens=1.0, prefix=1.0)
    decode: Weights = Weights(free_kv=1.0)

    def weights(self, stage: Stage) -> Mapping[str, float]:
        """Return the stage's scorer weights, as `route` takes them."""
        return {Stage.ENCODE: self.encode, Stage.PREFILL: self.prefill, Stage.DECODE: self.decode}[
            stage
        ].in_use


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyPolicy:
    """How close the replicas of one request have to be."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    levels: Annotated[tuple[Name, ...], Field(description="Node labels of the topology, widest first.")] = ()
    edges: Annotated[
        Mapping[Edge, Name],
        AfterValidator(lambda edges: {**AUTO_EDGES, **edges}),
        Field(description="Per edge: the level both ends must share, `any`, or `auto`."),
    ] = field(default_factory=lambda: dict(AUTO_EDGES))

    def __post_init__(self) -> None:
        if len(set(self.levels)) < len(self.levels):
            raise InfeasibleError("the same level is named twice", "levels")
        for edge, level in self.edges.items():
            if level not in ("auto", "any", *self.levels):
                raise InfeasibleError(f"{level!r} is not auto, any or one of levels", "edges", edge)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPolicy:
    """Which requests have encode and prefill on servers of their own."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    encode_from: Annotated[
        int | None,
        Field(ge=0, description="Media tokens from which a request is encoded apart; null: none is."),
    ] = 0
    prefill_from: Annotated[
        int | None,
        Field(ge=0, description="Prompt tokens from which a request is prefilled apart; null: none is."),
    ] = 0

    @classmethod
    def nothing(cls) -> "SplitPolicy":
        """Return that of a service which splits no request."""
        return cls(encode_from=None, prefill_from=None)

    @property
    def of_requests(self) -> Split:
        """What `tag` needs of it."""
        return Split(encode_from=self.encode_from, prefill_from=self.prefill_from)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandPolicy:
    """What previews predict with."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    trace: Annotated[
        Name | None, Field(description="Request trace, relative to the policy file; null: none.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One service's stage policy file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    apiVersion: Annotated[Literal["tercet/v1"], Field(description="Version of this format.")]  # noqa: N815
    service: Annotated[ServiceName, Field(description="Name of the service: lower case, digits, hyphens.")]
    model: Annotated[ModelPolicy, Field(description="The model that all stages run.")]
    stages: Annotated[StagePolicies, Field(description="What each stage runs on.")]
    split: Annotated[SplitPolicy, Field(description="Which requests are split.")] = field(
        default_factory=SplitPolicy
    )
    routing: Annotated[RoutingPolicy, Field(description="Scorer weights per stage.")] = field(
        default_factory=RoutingPolicy
    )
    admission: Annotated[AdmissionPolicy, Field(description="What is refused and what waits.")] = field(
        default_factory=AdmissionPolicy
    )
    slo: Annotated[SloPolicy, Field(description="What the service promises.")] = field(
        default_factory=SloPolicy
    )
    scaling: Annotated[ScalingPolicy, Field(description="How replica counts follow the load.")] = field(
        default_factory=ScalingPolicy
    )
    topology: Annotated[TopologyPolicy, Field(description="How close replicas have to be.")] = field(
        default_factory=TopologyPolicy
    )
    demand: Annotated[DemandPolicy, Field(description="What previews predict with.")] = field(
        default_factory=DemandPolicy
    )

    def __post_init__(self) -> None:
        engines = {self.stages[stage].engine for stage in Stage}
        if len(engines) > 1 and not engines.isdisjoint(SERVERS):
            message = f"{', '.join(sorted(engines))} do not work on one request together"
            raise InfeasibleError(message, "stages")
        self._check_split()
        self._check_encoders_called()
        budgets_s = sum(self.stages[stage].budget_s for stage in Stage)
        if budgets_s > self.slo.ttft_s:
            message = f"{self.slo.ttft_s:g} is below the stages' budgets, {budgets_s:g} together"
            raise InfeasibleError(message, "slo", "ttft_s")
        # With traffic no stage is without a replica, whatever its min.
        least = sum(max(1, self.stages[stage].min) * self.stages[stage].tp for stage in Stage)
        if self.scaling.budget is not None and self.scaling.budget < least:
            budget = self.scaling.budget
            message = f"{budget} accelerators are fewer than the {least} of min replicas, one at least"
            raise InfeasibleError(message, "scaling", "budget")
        for path, stage, count in named_counts(self.scaling.params):
            least, most = self.stages[stage].min, self.stages[stage].max
            if not least <= count <= most:
                message = f"{count} is outside stages.{stage}.min {least} and max {most}"
                raise InfeasibleError(message, "scaling", "params", *path)

    def _check_split(self) -> None:
        if self.stages.decode.engine in UNSPLIT and self.split != SplitPolicy.nothing():
            message = (
                f"{self.stages.decode.engine} does all stages: say {{encode_from: null, prefill_from: null}}"
            )
            raise InfeasibleError(message, "split")
        if self.split == SplitPolicy():
            return
        if not self.served:
            message = f"{self.stages.encode.engine} has an engine for each stage; leave split out"
            raise InfeasibleError(message, "split")
        if SCALERS[self.scaling.policy].counts_work:
            others = ", ".join(name for name, each in SCALERS.items() if each.live and not each.counts_work)
            message = f"{self.scaling.policy} does not count what a stage does for another"
            raise InfeasibleError(f"{message}; these need not: {others}", "scaling", "policy")

    def _check_encoders_called(self) -> None:
        if not self.encoders_called:
            return
        if self.split != SplitPolicy():
            message = "SGLang encodes apart for all requests, which are prefilled apart too, or for none"
            raise InfeasibleError(f"{message}: say {{encode_from: null}}, or leave split out", "split")
        if SCALERS[self.scaling.policy].goes_by_queues:
            why = "goes by what waits for replicas, and for SGLang's encoders nothing does"
            message = f"{self.scaling.policy} {why}"
            raise InfeasibleError(f"{message}: hpa goes by how busy they are", "scaling", "policy")

    @property
    def served(self) -> bool:
        """Whether the engines are servers that read chats themselves."""
        return self.stages.encode.engine in SERVERS

    @property
    def encoders_called(self) -> bool:
        """Whether servers that prefill call those that encode, as SGLang's do; we give these no work then."""
        return self.stages.encode.engine == "sglang" and self.split.encode_from is not None

    @property
    def switches_roles(self) -> bool:
        """Whether servers that prefill and servers that decode are started so that they can change places.

        Whether they shall is `scaling`'s to say, and may change while they run.
        """
        both = (self.stages.prefill, self.stages.decode)
        can = all(each.engine == "sglang" and ROLE_SWITCH_FLAG in each.flags for each in both)
        return can and self.split.prefill_from is not None

    def roles(self, stage: Stage) -> tuple[Stage, ...]:
        """Return the stages that a replica of one may come to do."""
        changing = (Stage.PREFILL, Stage.DECODE)
        return changing if self.switches_roles and stage in changing else (stage,)

    def hops(self, stages: Iterable[Stage]) -> tuple[Stage, ...]:
        """Return those of the stages that requests pass to whose replicas we give the work."""
        return tuple(stage for stage in stages if stage is not Stage.ENCODE or not self.encoders_called)

    @property
    def used_stages(self) -> tuple[Stage, ...]:
        """The stages that requests pass, in order; see `split`."""
        return tuple(stage for stage in Stage if self.split.of_requests.uses(stage))

    @property
    def admission_bounds(self) -> AdmissionBounds:
        """What `admit` needs of this policy."""
        return AdmissionBounds(
            queue_s=self.admission.queue_s,
            prefill_backlog_s=self.scaling.params.prefill_backlog * self.stages.prefill.budget_s,
            encode_waits=not self.encoders_called,
        )

    @property
    def waiting_params(self) -> WaitingParams:
        """What the order of waiting work needs of this policy."""
        return WaitingParams(
            ttft_s=self.slo.ttft_s,
            stretch=self.slo.stretch if self.slo.size_normalised else 0.0,
            age_s=self.admission.age_s,
            priority_s=self.admission.priority_s,
            tpot_s=self.slo.tpot_s,
        )
