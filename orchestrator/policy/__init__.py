"""Stage policy files: data that says what each stage runs, how work is routed and what is refused.

`load_policy` parses a file once, at the edge; everything behind it reads frozen values.
"""

from orchestrator.policy.changes import Change, classify, keep_running
from orchestrator.policy.load import (
    PolicyError,
    dump_policy,
    load_policy,
    policy_schema,
    restore_policy,
)
from orchestrator.policy.requests import AdmissionPolicy, FetchPolicy, Limits, SloPolicy
from orchestrator.policy.scaling import ScalingPolicy
from orchestrator.policy.values import (
    SERVERS,
    UNSPLIT,
    DemandPolicy,
    Edge,
    ModelPolicy,
    Policy,
    RoutingPolicy,
    SplitPolicy,
    StagePolicies,
    StagePolicy,
    TopologyPolicy,
)
from orchestrator.policy.watch import PolicyWatcher
from orchestrator.yaml_file import Problem

__all__ = [
    "SERVERS",
    "UNSPLIT",
    "AdmissionPolicy",
    "Change",
    "DemandPolicy",
    "Edge",
    "FetchPolicy",
    "Limits",
    "ModelPolicy",
    "Policy",
    "PolicyError",
    "PolicyWatcher",
    "Problem",
    "RoutingPolicy",
    "ScalingPolicy",
    "SloPolicy",
    "SplitPolicy",
    "StagePolicies",
    "StagePolicy",
    "TopologyPolicy",
    "classify",
    "dump_policy",
    "keep_running",
    "load_policy",
    "policy_schema",
    "restore_policy",
]
