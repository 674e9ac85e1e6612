"""What the three stages of one policy file share: live fields, names in DNS, edges."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra.config import ImagesConfig
from infra.objects.inference_pool import inference_pool_objects
from infra.objects.names import SKIP_AWAIT, Object, digest, metadata, object_name
from infra.objects.network import part_labels, service_edges
from infra.objects.pods import BLOB_PORT
from infra.objects.pool_args import StagePoolArgs
from infra.service_config import ServiceConfig
from infra.shared_config import BrokerConfig
from orchestrator.kube_names import POLICY_FILE
from orchestrator.policy import DemandPolicy, Policy, dump_policy
from stages.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServiceArgs:
    """One service.

    Attributes:
        file: Where the policy lies.
        profile_text: The file that `policy.model.profile` names; empty if it names none.
        broker: How pods reach Redis, and the Secret with the blob token.
        priority_class: Name of the PriorityClass of its pods.
        nodes: Nodes that a replica spans on the stage's best hardware class, where one is too few.
        prometheus: Where KEDA asks; empty without it.
        weights_bytes: Of each stage's model; empty if nothing is known of it.
        token_bytes: KV cache of one position, 1 if nothing is known of the model.
        starts: Annotations of each stage's pods that say how long they take to start on simulated nodes.
    """

    policy: Policy
    file: Path
    namespace: str
    config: ServiceConfig
    images: ImagesConfig
    broker: BrokerConfig
    priority_class: str
    profile_text: str = ""
    nodes: Mapping[Stage, int] = field(default_factory=dict)
    prometheus: str = ""
    weights_bytes: Mapping[Stage, int] = field(default_factory=dict)
    token_bytes: int = 1
    starts: Mapping[Stage, Mapping[str, str]] = field(default_factory=dict)

    @property
    def pools(self) -> list[StagePoolArgs]:
        """One for each stage and hardware class.

        Only the controller knows how to choose between classes: with others the best class has all replicas.
        """
        return [
            self._pool(stage, hardware, best=hardware == self.policy.stages[stage].hardware[0])
            for stage in self.policy.used_stages
            for hardware in self.policy.stages[stage].hardware
        ]

    def _first(self, stage: Stage) -> int:
        """Return the replicas to begin with; an HPA does nothing for a pool that has none."""
        return max(self.policy.stages[stage].min, self.config.autoscaler == "hpa")

    def _pool(self, stage: Stage, hardware: str, *, best: bool) -> StagePoolArgs:
        controlled = self.config.autoscaler == "tercet"
        return StagePoolArgs(
            policy=self.policy,
            stage=stage,
            hardware=hardware,
            namespace=self.namespace,
            autoscaler=self.config.autoscaler if controlled or best else "none",
            images=self.images,
            broker=self.broker,
            priority_class=self.priority_class,
            replicas=self._first(stage) if best and not controlled else 0,
            nodes=self.nodes.get(stage, 1) if best else 1,
            queue=self.config.queue or "",
            prometheus=self.prometheus,
            weights_bytes=self.weights_bytes.get(stage, 0),
            token_bytes=self.token_bytes,
            start=self.starts.get(stage, {}),
        )


def policy_name(service: str) -> str:
    """Return the name of the ConfigMap with a service's policy."""
    return object_name(service, "policy")


def service_objects(args: ModelServiceArgs) -> list[Object]:
    """Return the policy's ConfigMap, a headless Service for each stage, NetworkPolicies, an InferencePool."""
    service, namespace = args.policy.service, args.namespace
    headless = [_headless(service, namespace, stage) for stage in Stage]
    made = [
        policy_map(args.policy, namespace, args.profile_text),
        *headless,
        *service_edges(args.policy, namespace, args.broker),
    ]
    if args.config.inference_pool:
        grouped, config = Stage.DECODE in args.nodes, args.config.inference_pool
        made += inference_pool_objects(args.policy, namespace, config, grouped=grouped)
    return made


def policy_map(policy: Policy, namespace: str, profile_text: str) -> Object:
    """Return the ConfigMap with the whole policy: gateways and controller begin with it, and the publisher
    brings them its edits.

    Previews alone need `demand`, and its trace stays where they run.

    Args:
        policy: As its file has it.
        namespace: Of the ConfigMap.
        profile_text: The file that `policy.model.profile` names; empty if it names none.
    """
    # An edit of the profile alone is one of the policy too: its name changes.
    profile = f"profile-{digest(profile_text)[:8]}.yaml" if profile_text else None
    published = replace(policy, demand=DemandPolicy(), model=replace(policy.model, profile=profile))
    text = json.dumps(json.loads(dump_policy(published)), indent=1)
    files = {POLICY_FILE: text} | ({profile: profile_text} if profile else {})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(policy_name(policy.service), namespace),
        "data": files,
    }


def _headless(service: str, namespace: str, stage: Stage) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(object_name(service, stage.value), namespace, annotations=SKIP_AWAIT),
        "spec": {
            "clusterIP": "None",
            "selector": part_labels(service, stage.value),
            "ports": [{"name": "blobs", "port": BLOB_PORT, "targetPort": BLOB_PORT}],
        },
    }
