"""What each stage has to do for a service, per call: the advisor's question.

A call is one image for encode, one prompt for prefill, one completion for decode.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.core.capacity import Mix, decode_batch
from orchestrator.core.profile import HardwareClass, ModelProfile, PrefillTiming
from orchestrator.core.targets import Span
from stages.types import Stage

BYTES_PER_TOKEN_ID = 4
ONE_CORE = HardwareClass("cpu", 1)
_UNBOUNDED_KV = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTiming:
    """Time of calls on one replica with nothing else to do, or on one vCPU.

    Attributes:
        call_s: Of one call, while `slots` of them run at once.
        first_s: From its input to its first output; `call_s` if it has only one.
        piece_s: Between outputs; 0.0 if it has only one.
        slots: Calls at once.
        one_core: Whether a call keeps to one core, so that more of them run more calls, not faster ones.
    """

    call_s: float
    first_s: float
    piece_s: float = 0.0
    slots: int = 1
    one_core: bool = False

    def on_vcpus(self, vcpus: float) -> "CallTiming":
        """Return the timing on so many vCPUs if this is one's; work parts without loss, if at all."""
        if self.one_core:
            return replace(self, slots=max(1, int(vcpus)))
        return CallTiming(
            call_s=self.call_s / vcpus,
            first_s=self.first_s / vcpus,
            piece_s=self.piece_s / vcpus,
            slots=self.slots,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """One stage of one service under load.

    Attributes:
        requests_per_s: Of the service; mean, ≥ 0.
        calls_per_request: Of this stage; mean over all requests, ≥ 0.
        share: Fraction of requests that reach this stage.
        timings: By hardware class, as profiled.
        vcpu: On one vCPU, or None if not known.
        weights_bytes: That a replica holds.
        working_bytes: That a call needs besides.
        request_bytes: Into a call.
        response_bytes: Out of it.
        streams: Whether its answer is of use piece by piece only.
        budget_s: Seconds of transfer, waiting and work that the stage may add to the first token; > 0.
        piece_s: Between the outputs of a call at most.
        load_s: Seconds in which a replica loads weights and warms up.
        variability: ca² + cs² of arrivals and service; 2.0 for Poisson arrivals and exponential service.
    """

    stage: Stage
    requests_per_s: float
    calls_per_request: float
    timings: Mapping[HardwareClass, CallTiming]
    vcpu: CallTiming | None
    weights_bytes: float
    working_bytes: float
    request_bytes: float
    response_bytes: float
    streams: bool
    budget_s: float
    load_s: Span
    piece_s: float = math.inf
    share: float = 1.0
    variability: float = 2.0

    @property
    def calls_per_s(self) -> float:
        """Mean over time."""
        return self.requests_per_s * self.calls_per_request

    @property
    def arrivals_per_s(self) -> float:
        """Requests that reach the stage; mean over time."""
        return self.requests_per_s * self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The requests of a service.

    Attributes:
        requests_per_s: Mean.
        images: Per request, mean over all requests.
        image_share: Fraction of requests that have any; > 0 if `images` is.
        text_tokens: Of the prompt, mean.
        output_tokens: Mean, ≥ 1.
        image_bytes: Of one image as it arrives, encoded.
    """

    requests_per_s: float
    images: float
    image_share: float
    text_tokens: float
    output_tokens: float
    image_bytes: float = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What the policy asks of the stages.

    Attributes:
        budget_s: Of each stage.
        tpot_s: Mean time per output token at most.
        slots: Sequences in one decode replica's batch at most.
    """

    budget_s: Mapping[Stage, float]
    tpot_s: float
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What one vCPU reaches, and what a profiled accelerator reaches at the same work.

    Attributes:
        flop_per_s: Of one vCPU, sustained.
        bytes_per_s: Of memory, one vCPU's share.
        like: The accelerator; the class with `tp` 1 is scaled.
        like_flop_per_s: Of the accelerator, sustained.
    """

    flop_per_s: float
    bytes_per_s: float
    like: str
    like_flop_per_s: float

    @property
    def slowdown(self) -> float:
        """How much longer one vCPU takes than the accelerator where arithmetic is the limit."""
        return self.like_flop_per_s / self.flop_per_s


def stage_works(
    profile: ModelProfile, demand: Demand, promises: Promises, processor: Processor
) -> tuple[StageWork, ...]:
    """Return the work of encode, prefill and decode.

    Hits in caches are not counted on: the work is that of requests that share nothing.
    """
    return (
        encode_work(profile, demand, promises, processor),
        prefill_work(profile, demand, promises, processor),
        decode_work(profile, demand, promises, processor),
    )


def encode_work(profile: ModelProfile, demand: Demand, promises: Promises, processor: Processor) -> StageWork:
    """Return the work of encode; a request's images arrive together, so arrivals vary by their number."""
    seconds = {where: timing.image_s for where, timing in profile.encode.items()}
    return StageWork(
        stage=Stage.ENCODE,
        requests_per_s=demand.requests_per_s,
        calls_per_request=demand.images,
        timings={where: CallTiming(call_s=s, first_s=s) for where, s in seconds.items()},
        vcpu=_on_a_vcpu(seconds, processor),
        weights_bytes=profile.weights_bytes[Stage.ENCODE],
        working_bytes=profile.embedding_bytes,
        request_bytes=demand.image_bytes,
        response_bytes=profile.embedding_bytes,
        streams=False,
        budget_s=promises.budget_s[Stage.ENCODE],
        load_s=Span(*profile.cold_start[Stage.ENCODE].load_s),
        share=demand.image_share,
        variability=1.0 + (max(1.0, demand.images / demand.image_share) if demand.image_share else 1.0),
    )


def prefill_work(
    profile: ModelProfile, demand: Demand, promises: Promises, processor: Processor
) -> StageWork:
    """Return the work of prefill."""
    tokens = _prompt_tokens(profile, demand)
    seconds = {
        where: _prefill_s(timing, tokens, profile.chunk_tokens) for where, timing in profile.prefill.items()
    }
    return StageWork(
        stage=Stage.PREFILL,
        requests_per_s=demand.requests_per_s,
        calls_per_request=1.0,
        timings={where: CallTiming(call_s=s, first_s=s) for where, s in seconds.items()},
        vcpu=_on_a_vcpu(seconds, processor),
        weights_bytes=profile.weights_bytes[Stage.PREFILL],
        working_bytes=_kv_bytes(profile, demand),
        request_bytes=demand.images * profile.embedding_bytes + demand.text_tokens * BYTES_PER_TOKEN_ID,
        response_bytes=_kv_bytes(profile, demand),
        streams=False,
        budget_s=promises.budget_s[Stage.PREFILL],
        load_s=Span(*profile.cold_start[Stage.PREFILL].load_s),
    )


def decode_work(profile: ModelProfile, demand: Demand, promises: Promises, processor: Processor) -> StageWork:
    """Return the work of decode, with the largest batch that keeps TPOT on each hardware class.

    A class that does not keep it with one sequence is left out. A token reads the prompt, half of the
    completion on average, and, where images go to cross-attention layers (kappa 0), the positions whose
    bytes their keys and values take, as the simulator has it.
    """
    output_bytes = profile.kv_bytes_per_token * demand.output_tokens
    return StageWork(
        stage=Stage.DECODE,
        requests_per_s=demand.requests_per_s,
        calls_per_request=1.0,
        timings=_decode_timings(profile, demand, promises),
        vcpu=_decode_on_a_vcpu(profile, demand, processor),
        weights_bytes=profile.weights_bytes[Stage.DECODE],
        working_bytes=_kv_bytes(profile, demand) + output_bytes,
        request_bytes=_kv_bytes(profile, demand),
        response_bytes=demand.output_tokens * BYTES_PER_TOKEN_ID,
        streams=True,
        budget_s=promises.budget_s[Stage.DECODE],
        load_s=Span(*profile.cold_start[Stage.DECODE].load_s),
        piece_s=promises.tpot_s,
    )


def _prompt_tokens(profile: ModelProfile, demand: Demand) -> float:
    return demand.text_tokens + profile.kappa * demand.images * profile.image_tokens


def _context_tokens(profile: ModelProfile, demand: Demand) -> float:
    """Return the KV positions of a prompt, as `capacity.Mix.context_tokens` counts them."""
    return _prompt_tokens(profile, demand) + demand.images * profile.image_kv_positions


def _kv_bytes(profile: ModelProfile, demand: Demand) -> float:
    return _context_tokens(profile, demand) * profile.kv_bytes_per_token


def _prefill_s(timing: PrefillTiming, tokens: float, chunk_tokens: int) -> float:
    chunks, rest = divmod(tokens, chunk_tokens)
    return chunks * timing.step_s(chunk_tokens) + timing.step_s(rest)


def _decode_timings(
    profile: ModelProfile, demand: Demand, promises: Promises
) -> Mapping[HardwareClass, CallTiming]:
    mix = Mix(
        prompt_tokens=max(1.0, _prompt_tokens(profile, demand)),
        context_tokens=max(1.0, _context_tokens(profile, demand)),
        output_tokens=demand.output_tokens,
    )
    alive = mix.context_tokens + mix.output_tokens / 2.0
    timings = {}
    for where, timing in profile.decode.items():
        batch = decode_batch(
            profile, where, mix, tpot_s=promises.tpot_s, slots=promises.slots, kv_tokens=_UNBOUNDED_KV
        )
        if batch:
            itl_s = timing.itl_s(batch, batch * alive)
            call_s = demand.output_tokens * itl_s
            timings[where] = CallTiming(call_s=call_s, first_s=itl_s, piece_s=itl_s, slots=batch)
    return timings


def _decode_on_a_vcpu(profile: ModelProfile, demand: Demand, processor: Processor) -> CallTiming:
    """Return the time of one sequence: as measured on one core, else that of reading all weights a token."""
    context = _context_tokens(profile, demand) + demand.output_tokens / 2.0
    measured = profile.decode.get(ONE_CORE)
    if measured:
        token_s = measured.itl_s(1.0, context)
    else:
        read_bytes = profile.weights_bytes[Stage.DECODE] + context * profile.kv_bytes_per_token
        token_s = read_bytes / processor.bytes_per_s
    return CallTiming(
        call_s=demand.output_tokens * token_s,
        first_s=token_s,
        piece_s=token_s,
        one_core=measured is not None,
    )


def _on_a_vcpu(seconds: Mapping[HardwareClass, float], processor: Processor) -> CallTiming | None:
    """Return the time where arithmetic is the limit: as measured on one core, else by ratio of speeds."""
    if ONE_CORE in seconds:
        return CallTiming(call_s=seconds[ONE_CORE], first_s=seconds[ONE_CORE], one_core=True)
    like = HardwareClass(processor.like, 1)
    if like not in seconds:
        return None
    scaled_s = seconds[like] * processor.slowdown
    return CallTiming(call_s=scaled_s, first_s=scaled_s)
