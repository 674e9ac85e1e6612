"""vidur, Microsoft's and Georgia Tech's simulator of LLM serving, on requests and step times of ours."""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from orchestrator.core.profile import DecodeTiming, PrefillTiming
from orchestrator.simulator.workload import Workload

_BLOCK_TOKENS = 16
_MS = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Replicas that prefill and decode, each request sent to the next in turn.

    Attributes:
        chunk_tokens: Of prompts and decodes in one step at most.
        sequences: In one replica's batch at most.
        kv_tokens: KV positions of one replica.
    """

    replicas: int
    prefill: PrefillTiming
    decode: DecodeTiming
    chunk_tokens: int
    sequences: int
    kv_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a simulator made of a workload.

    Attributes:
        wall_s: Of the simulation, without start-up.
        latency_s: Mean of arrival to last token.
    """

    wall_s: float
    events: int
    latency_s: float


def measure(cluster: Cluster, work: Workload) -> Simulated:
    """Simulate text requests with vidur: its clock, entities and Sarathi scheduler, our step times.

    Its package brings no profiles, and those that it would load are not in the package registry; so its
    predictor is one that computes what our engine takes for the same step. That is cheaper than its own.
    Metrics, traces and plots are off.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")
    with tempfile.TemporaryDirectory() as folder:
        simulator, requests = _simulator(cluster, work, folder)
        from vidur.events.base_event import BaseEvent

        first, began_s = BaseEvent.generate_id(), time.perf_counter()
        simulator.run()
        wall_s = time.perf_counter() - began_s
    latencies_s = [request.completed_at - request.arrived_at for request in requests]
    return Simulated(
        wall_s=wall_s,
        events=BaseEvent.generate_id() - first - 1 + len(requests),
        latency_s=sum(latencies_s) / len(latencies_s),
    )


def _simulator(cluster: Cluster, work: Workload, folder: str) -> tuple[Any, Sequence[Any]]:
    """Return a simulator with its requests due, and those."""
    from vidur import config
    from vidur.entities import Request
    from vidur.execution_time_predictor import ExecutionTimePredictorRegistry as Predictors
    from vidur.request_generator import RequestGeneratorRegistry as Generators
    from vidur.simulator import Simulator
    from vidur.types import ExecutionTimePredictorType, RequestGeneratorType

    logging.getLogger("vidur").setLevel(logging.WARNING)  # importing it has set another
    columns = (work.arrival_s, work.context_tokens, work.output_tokens)
    requests = [Request(*row) for row in zip(*[c.tolist() for c in columns], strict=True)]
    Generators.unregister(RequestGeneratorType.SYNTHETIC)
    Generators.register(
        RequestGeneratorType.SYNTHETIC, lambda given: SimpleNamespace(generate=lambda: requests)
    )
    Predictors.unregister(ExecutionTimePredictorType.LINEAR_REGRESSION)
    Predictors.register(
        ExecutionTimePredictorType.LINEAR_REGRESSION,
        lambda **given: _StepTimes(cluster.prefill, cluster.decode),
    )
    simulator = Simulator(
        config.SimulationConfig(
            cluster_config=config.ClusterConfig(
                num_replicas=cluster.replicas,
                replica_config=config.ReplicaConfig(num_pipeline_stages=1, tensor_parallel_size=1),
                cache_config=config.CacheConfig(
                    block_size=_BLOCK_TOKENS, num_blocks=cluster.kv_tokens // _BLOCK_TOKENS
                ),
                replica_scheduler_config=config.SarathiSchedulerConfig(
                    batch_size_cap=cluster.sequences, chunk_size=cluster.chunk_tokens
                ),
            ),
            request_generator_config=config.SyntheticRequestGeneratorConfig(),
            execution_time_predictor_config=config.LinearRegressionExecutionTimePredictorConfig(),
            metrics_config=config.MetricsConfig(
                write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=folder
            ),
        )
    )
    return simulator, requests


class _StepTimes:
    """Stands for vidur's execution time predictor."""

    def __init__(self, prefill: PrefillTiming, decode: DecodeTiming) -> None:
        self._prefill = prefill
        self._decode = decode

    def get_execution_time(self, batch: Any, pipeline_stage: int) -> SimpleNamespace:
        """Return the time of a step as `orchestrator.simulator.step_engine.StepEngine` has it."""
        prompt = batch.num_prefill_tokens
        decoding = [
            kv
            for request, kv in zip(batch.requests, batch.num_kv_tokens, strict=True)
            if request.is_prefill_complete
        ]
        step_s = self._prefill.step_s(prompt)
        if decoding:
            both_s = self._decode.itl_s(len(decoding), sum(decoding))
            step_s += both_s - (self._decode.step_s if prompt else 0.0)
        return SimpleNamespace(total_time=step_s, model_time=step_s, model_time_ms=step_s * _MS)
