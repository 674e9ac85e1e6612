"""What a model's stages can do on which hardware: timings, sizes and cold starts, as values.

Times come from measurements or are derived from them; `data/profiles/` says which and how far off they
may be. Everything here is one replica at work without waiting; queueing is `core.queueing`.
"""

from bisect import bisect_left
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

from stages.types import Stage


class HardwareClass(NamedTuple):
    """What one replica runs on: `tp` accelerators of one type, with the model split across them."""

    hardware: str
    tp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """Facts of one accelerator type.

    Attributes:
        memory_bytes: On one accelerator.
        memory_bytes_per_s: Bandwidth of that memory; 0.0 if unknown.
        host_bytes_per_s: Bandwidth to another accelerator of the same host; 0.0 if unknown.
        cost_per_h: US dollars for one accelerator and its share of the host.
        provisioning_s: Between which seconds a node of them takes from asked for to ready.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float = 0.0
    host_bytes_per_s: float = 0.0
    cost_per_h: float
    provisioning_s: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeTiming:
    """Encoding is linear in images and gains nothing from batching (ModServe, fig. 5).

    Attributes:
        image_s: Seconds of one replica for one image of the profile's size, all its tiles.
    """

    image_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTiming:
    """Time of a prefill step as a function of the tokens in it.

    Attributes:
        points: (tokens, seconds), ascending in both; at least one. Between points, and from
            (0, floor_s) to the first, time is linear; beyond the last it goes on at its rate.
        floor_s: Seconds of a step with hardly any token in it; weights are read all the same.
    """

    points: tuple[tuple[int, float], ...]
    floor_s: float

    def step_s(self, tokens: float) -> float:
        """Return the seconds of a step that computes `tokens` tokens; 0.0 for none."""
        if tokens <= 0:
            return 0.0
        at = bisect_left(self.points, (tokens, 0.0))
        if at == len(self.points):
            most, seconds = self.points[-1]
            return seconds * tokens / most
        high, high_s = self.points[at]
        low, low_s = self.points[at - 1] if at else (0, min(self.floor_s, high_s))
        return low_s + (high_s - low_s) * (tokens - low) / (high - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTiming:
    """Time of a decode step: reading the weights, computing each sequence, reading each KV cache.

    Attributes:
        step_s: Seconds of a step whatever is in it.
        sequence_s: Seconds more for each sequence.
        context_token_s: Seconds more for each token in the KV caches of all sequences together.
    """

    step_s: float
    sequence_s: float
    context_token_s: float

    def itl_s(self, sequences: float, context_tokens: float) -> float:
        """Return the inter-token latency of a batch; `context_tokens` counts all its sequences."""
        return self.step_s + sequences * self.sequence_s + context_tokens * self.context_token_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Seconds from the decision to a replica that takes work, each uniform within (low, high).

    Attributes:
        node_s: A node is provisioned; nothing if one is free.
        pull_s: Its image is pulled.
        load_s: Weights are loaded and the engine warms up.
    """

    node_s: tuple[float, float]
    pull_s: tuple[float, float]
    load_s: tuple[float, float]

    def lead_s(self, *, node_free: bool) -> float:
        """Return the longest that the start is expected to take."""
        return self.pull_s[1] + self.load_s[1] + (0.0 if node_free else self.node_s[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHost:
    """One machine on whose cores a service's processes compete: gateway, Redis, workers and clients.

    All times are processor seconds. Those of workers come beside what their stage's timing says.

    Attributes:
        cores: Processor cores.
        slice_s: For how long a core runs one process while another waits for it.
        seek: Probability that a process that wakes is given a core that is free, if there is one; where
            neighbours keep the cores busy, Linux does not see which are free of ours.
        stolen: Fraction of their time that neighbours take while all cores have work of ours; below 1.
        request_s: Of the gateway, for a request beside its hops.
        hop_s: Of the gateway, for a hop: half sends it, half takes its answer.
        event_s: Of the gateway, for an event of a stream.
        store_hop_s: Of Redis, for a hop.
        store_write_s: Of Redis, for a write of tokens; a decode worker's part is in its step.
        worker_hop_s: Of a worker, for a hop, by stage.
        client_request_s: Of the client, for a request; likewise `client_event_s`.
        late: Fraction of a process's part of a hop that it does after it has answered.
        wake_s: What work costs the gateway more that finds it asleep; likewise `store_wake_s` of Redis.
        slowness: Equally likely factors on all times, of mean 1: the machine is not always as fast.
    """

    cores: int
    slice_s: float
    seek: float
    stolen: float
    request_s: float
    hop_s: float
    event_s: float
    store_hop_s: float
    store_write_s: float
    worker_hop_s: Mapping[Stage, float]
    client_request_s: float = 0.0
    client_event_s: float = 0.0
    late: float = 0.0
    wake_s: float = 0.0
    store_wake_s: float = 0.0
    slowness: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """One model's stages.

    Attributes:
        kappa: 1 if image tokens also load prefill (decoder-only models), 0 if not.
        image_tokens: Embedding rows of one image of `image_px` × `image_px` pixels, in `image_tiles` tiles.
        embedding_bytes: Of one image, from encode to prefill.
        image_kv_bytes: KV cache of one image beside that of the prompt's tokens; 0 unless image tokens
            go to cross-attention layers.
        preprocess_s: Seconds of one processor core for one image, before the accelerator.
        kv_bytes_per_token: Over all layers, of the whole model.
        weights_bytes: By stage; prefill and decode hold the same language model.
        chunk_tokens: Prompt tokens in one prefill step at most.
        encode: Timing by hardware class; likewise `prefill` and `decode`.
        cold_start: By stage.
        tile_px: Width and height of a tile; 0 if only `image_px` is known. See `core.image_size`.
        thumbnail: Whether the whole image is one more tile.
        error: Factors (low, high) on all times between which the truth is believed to be.
        source: Where the figures are from.
        host: The machine that all replicas share; None if each has its accelerators to itself.
    """

    model: str
    kappa: int
    image_tokens: int
    embedding_bytes: int
    preprocess_s: float
    kv_bytes_per_token: int
    weights_bytes: Mapping[Stage, int]
    chunk_tokens: int
    encode: Mapping[HardwareClass, EncodeTiming]
    prefill: Mapping[HardwareClass, PrefillTiming]
    decode: Mapping[HardwareClass, DecodeTiming]
    cold_start: Mapping[Stage, ColdStart]
    image_kv_bytes: int = 0
    image_px: int = 896
    image_tiles: int = 1
    tile_px: int = 0
    thumbnail: bool = False
    error: tuple[float, float] = (1.0, 1.0)
    source: str = ""
    host: SharedHost | None = None

    @property
    def image_kv_positions(self) -> float:
        """Positions that take as many KV bytes as one image in cross-attention layers; 0.0 without those.

        Each decode step reads them, as it reads the positions of the prompt.
        """
        return self.image_kv_bytes / self.kv_bytes_per_token

    def classes(self, stage: Stage) -> Set[HardwareClass]:
        """Return the hardware classes that a stage was profiled on."""
        timings: Mapping[Stage, Mapping[HardwareClass, object]] = {
            Stage.ENCODE: self.encode,
            Stage.PREFILL: self.prefill,
            Stage.DECODE: self.decode,
        }
        return timings[stage].keys()
