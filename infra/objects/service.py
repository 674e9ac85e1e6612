"""What the three stages of one policy file share: live fields, names in DNS, edges."""

import json
from dataclasses import dataclass, replace

from infra.config import ImagesConfig, ServiceConfig
from infra.objects.names import Object, metadata, object_name
from infra.objects.network import part_labels, service_edges
from infra.objects.pods import BLOB_PORT
from infra.objects.stage_pool import StagePoolArgs
from orchestrator.policy import DemandPolicy, Policy, dump_policy
from stages.types import Stage

POLICY_KEY = "policy.yaml"
PROFILE_KEY = "profile.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServiceArgs:
    """One service.

    Attributes:
        profile_text: The file that `policy.model.profile` names; empty if it names none.
        secret: Name of the Secret with Redis's password and the blob token.
        priority_class: Name of the PriorityClass of its pods.
    """

    policy: Policy
    namespace: str
    config: ServiceConfig
    images: ImagesConfig
    secret: str
    priority_class: str
    profile_text: str = ""

    @property
    def pools(self) -> list[StagePoolArgs]:
        """One pool for each stage and hardware class; without an autoscaler the best class has them all."""
        return [
            StagePoolArgs(
                policy=self.policy,
                stage=stage,
                hardware=hardware,
                namespace=self.namespace,
                autoscaler=self.config.autoscaler,
                images=self.images,
                secret=self.secret,
                priority_class=self.priority_class,
                replicas=self.policy.stages[stage].min if rank == 0 else 0,
            )
            for stage in Stage
            for rank, hardware in enumerate(self.policy.stages[stage].hardware)
        ]


def policy_name(service: str) -> str:
    """Return the name of the ConfigMap with a service's policy."""
    return object_name(service, "policy")


def service_objects(args: ModelServiceArgs) -> list[Object]:
    """Return the policy's ConfigMap, a headless Service for each stage, and the NetworkPolicies."""
    service, namespace = args.policy.service, args.namespace
    headless = [_headless(service, namespace, stage) for stage in Stage]
    return [policy_map(args), *headless, *service_edges(args.policy, namespace)]


def policy_map(args: ModelServiceArgs) -> Object:
    """Return the ConfigMap that gateway and controller read the whole policy from.

    Previews alone need `demand`, and its trace stays where they run.
    """
    profile = PROFILE_KEY if args.profile_text else None
    published = replace(args.policy, demand=DemandPolicy(), model=replace(args.policy.model, profile=profile))
    text = json.dumps(json.loads(dump_policy(published)), indent=1)
    files = {POLICY_KEY: text} | ({PROFILE_KEY: args.profile_text} if profile else {})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(policy_name(args.policy.service), args.namespace),
        "data": files,
    }


def _headless(service: str, namespace: str, stage: Stage) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(object_name(service, stage.value), namespace, annotations=_SKIP_AWAIT),
        "spec": {
            "clusterIP": "None",
            "selector": part_labels(service, stage.value),
            "ports": [{"name": "blobs", "port": BLOB_PORT, "targetPort": BLOB_PORT}],
        },
    }


_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
"""A Service of gated pods has no endpoints, and nobody should wait for any."""
