"""What a stage pool is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.config import ImagesConfig
from infra.objects.names import object_name, pool_labels
from infra.service_config import Autoscaler
from infra.shared_config import BrokerConfig
from orchestrator.policy import Policy
from orchestrator.policy.values import StagePolicy
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePoolArgs:
    """The replicas of one stage on one hardware class.

    Attributes:
        autoscaler: Of this pool: `none` for a pool whose count stays, whatever scales others of the service.
        replicas: That it starts with, and keeps without an autoscaler.
        nodes: Nodes that one replica spans.
        queue: Kueue's LocalQueue; empty for none.
        prometheus: Where KEDA asks; empty without it.
        priority_class: Name of the PriorityClass.
        weights_bytes: Of one replica's model, 0 if nothing is known of it.
        token_bytes: KV cache of one position, 1 if nothing is known of the model.
        start: Annotations that say how long its pods take to start on simulated nodes.
    """

    policy: Policy
    stage: Stage
    hardware: str
    namespace: str
    autoscaler: Autoscaler
    images: ImagesConfig
    broker: BrokerConfig
    priority_class: str
    replicas: int = 0
    nodes: int = 1
    queue: str = ""
    prometheus: str = ""
    weights_bytes: int = 0
    token_bytes: int = 1
    start: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its objects."""
        return object_name(self.policy.service, self.stage.value, self.hardware)

    @property
    def labels(self) -> dict[str, str]:
        """What the controller, its Service and NetworkPolicies know it by; also the selector."""
        return pool_labels(self.policy.service, self.stage, self.hardware)

    @property
    def of_stage(self) -> StagePolicy:
        """What the policy says of its stage."""
        return self.policy.stages[self.stage]

    @property
    def movable(self) -> bool:
        """Whether its pods take another stage's role when they are moved to the pool of that."""
        return self.nodes == 1 and len(self.policy.roles(self.stage)) > 1

    @property
    def drain_s(self) -> int:
        """Seconds that a pod may take to end, whichever stage it does by then."""
        return max(self.policy.stages[role].drain_s for role in self.policy.roles(self.stage))

    @property
    def gated(self) -> bool:
        """Whether the controller places its pods; with others a gate would stay for ever."""
        return self.autoscaler == "tercet"

    @property
    def target(self) -> dict[str, str]:
        """What holds its count, as scalers name it."""
        if self.nodes > 1:
            return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": self.name}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
