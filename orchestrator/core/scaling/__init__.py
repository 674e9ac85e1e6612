"""Scaling policies: plain functions of one signature, by the name that a policy file gives."""

from collections.abc import Mapping

from orchestrator.core.scaling.coupled import coupled
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.dynamo import DynamoLikeParams, dynamo_like
from orchestrator.core.scaling.heteroscale import HeteroscaleParams, heteroscale
from orchestrator.core.scaling.hpa import HpaParams, hpa
from orchestrator.core.scaling.independent import IndependentTpsParams, independent_tps
from orchestrator.core.scaling.latency import LatencyOnlyParams, latency_only
from orchestrator.core.scaling.modserve import ModserveParams, modserve
from orchestrator.core.scaling.oracle import OracleParams, oracle, oracle_zero_lag
from orchestrator.core.scaling.params import Params
from orchestrator.core.scaling.periodic import PeriodicParams, periodic
from orchestrator.core.scaling.scaler import Scaler
from orchestrator.core.scaling.static import StaticBestParams, StaticParams, static, static_best
from orchestrator.core.scaling.threshold import ThresholdOrParams, threshold_or

SCALERS: Mapping[str, Scaler] = {
    "static": Scaler(plan=static, params=StaticParams, follows_load=False, counts_work=False),
    "static-best": Scaler(plan=static_best, params=StaticBestParams, follows_load=False, counts_work=False),
    "oracle": Scaler(plan=oracle, params=OracleParams, follows_load=False, live=False),
    "oracle-zero-lag": Scaler(plan=oracle_zero_lag, params=OracleParams, follows_load=False, live=False),
    "hpa": Scaler(plan=hpa, params=HpaParams, counts_work=False),
    "independent-tps": Scaler(plan=independent_tps, params=IndependentTpsParams),
    "latency-only": Scaler(plan=latency_only, params=LatencyOnlyParams),
    "periodic": Scaler(plan=periodic, params=PeriodicParams, follows_load=False),
    "heteroscale": Scaler(plan=heteroscale, params=HeteroscaleParams),
    "modserve": Scaler(plan=modserve, params=ModserveParams),
    "dynamo-like": Scaler(plan=dynamo_like, params=DynamoLikeParams),
    "threshold-or": Scaler(
        plan=threshold_or, params=ThresholdOrParams, counts_work=False, goes_by_queues=True
    ),
    "coupled": Scaler(plan=coupled, params=CoupledParams),
}

__all__ = ["SCALERS", "Params", "Scaler"]
