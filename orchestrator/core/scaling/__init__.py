"""Scaling policies: plain functions of one signature, by the name that a policy file gives."""

from collections.abc import Mapping

from orchestrator.core.scaling.coupled import coupled
from orchestrator.core.scaling.coupled_params import CoupledParams
from orchestrator.core.scaling.hpa import HpaParams, hpa
from orchestrator.core.scaling.params import Params
from orchestrator.core.scaling.scaler import Scaler
from orchestrator.core.scaling.static import StaticBestParams, StaticParams, static, static_best

SCALERS: Mapping[str, Scaler] = {
    "static": Scaler(plan=static, params=StaticParams, follows_load=False),
    "static-best": Scaler(plan=static_best, params=StaticBestParams, follows_load=False),
    "hpa": Scaler(plan=hpa, params=HpaParams),
    "coupled": Scaler(plan=coupled, params=CoupledParams),
}

__all__ = ["SCALERS", "Params", "Scaler"]
