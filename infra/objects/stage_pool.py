"""The replicas of one stage on one hardware class: a Deployment and what belongs to it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from infra.config import Autoscaler, ImagesConfig
from infra.objects.engines import SERVERS, engine_container
from infra.objects.names import Object, digest, metadata, object_name, pool_labels
from infra.objects.pods import (
    BLOB_DIR,
    BLOB_PORT,
    REDIS_URL,
    blobs,
    container_security,
    pod_facts,
    pod_security,
    scratch,
    secrets,
    tcp_probe,
)
from orchestrator.kube_names import (
    ACCELERATOR_RESOURCE,
    DELETION_COST,
    DOMAIN,
    GATE,
    HARDWARE,
    PROCESSORS,
)
from orchestrator.policy import Policy
from stages.types import Stage

MAX_IMAGE_PX = 400_000_000
"""The gateway holds media to the live `image_px`; engines refuse only what no policy should allow."""

_TOLERATION = {"key": ACCELERATOR_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
"""Of any value: clouds taint nodes with accelerators alike but for that."""

_START_S = 600
_LEAVE_S = 10
"""Seconds beyond the drain: closing engines and leaving the registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePoolArgs:
    """One pool.

    Attributes:
        secret: Name of the Secret with Redis's password and the blob token.
        replicas: Without an autoscaler.
        priority_class: Name of the PriorityClass.
    """

    policy: Policy
    stage: Stage
    hardware: str
    namespace: str
    autoscaler: Autoscaler
    images: ImagesConfig
    secret: str
    priority_class: str
    replicas: int = 0

    @property
    def name(self) -> str:
        """Name of its objects."""
        return object_name(self.policy.service, self.stage.value, self.hardware)

    @property
    def labels(self) -> dict[str, str]:
        """What the controller, its Service and NetworkPolicies know it by; also the selector."""
        return pool_labels(self.policy.service, self.stage, self.hardware)


def pool_objects(args: StagePoolArgs) -> list[Object]:
    """Return ConfigMap, Deployment and PodDisruptionBudget."""
    rollout = _rollout(args)
    return [rollout, _deployment(args, rollout["metadata"]["name"]), _disruption_budget(args)]


def _rollout(args: StagePoolArgs) -> Object:
    """Return the immutable ConfigMap of the fields that replace pods: each a value of JSON."""
    of_stage = args.policy.stages[args.stage]
    fields: dict[str, Any] = {
        "MODEL": args.policy.model.name,
        "KAPPA": args.policy.model.kappa,
        "MAX_CONTEXT": args.policy.model.max_context,
        "ENGINE": of_stage.engine,
        "HARDWARE": args.hardware,
        "TP": of_stage.tp,
        "SLOTS": of_stage.batch,
    }
    data = {name: json.dumps(value) for name, value in fields.items()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(f"{args.name}-{digest(data)[:10]}", args.namespace, args.labels),
        "immutable": True,
        "data": data,
    }


def _worker_json(drain_s: int) -> str:
    """Return a `WorkerConfig` as JSON in which Kubernetes replaces each `$(NAME)`.

    What stands without quotes, `<NAME>` at first, is itself a value of JSON.
    """
    config = {
        "name": "$(POD_NAME)",
        "epoch": "",
        "stage": "<STAGE>",
        "model": "<MODEL>",
        "slots": "<SLOTS>",
        "hardware": "<HARDWARE>",
        "domain": "<DOMAIN>",
        "redis_url": REDIS_URL,
        "blobs": blobs(),
        "limits": {"max_batch": "<SLOTS>", "max_image_pixels": MAX_IMAGE_PX},
        "grace_s": drain_s,
    }
    return re.sub(r'"<(\w+)>"', r"$(\1)", json.dumps(config))


def _deployment(args: StagePoolArgs, rollout: str) -> Object:
    scaled = args.autoscaler == "tercet"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        # Gated pods do not become ready by themselves: nobody should wait for them.
        "metadata": metadata(args.name, args.namespace, args.labels, {"pulumi.com/skipAwait": "true"}),
        "spec": {
            "replicas": 0 if scaled else args.replicas,
            "selector": {"matchLabels": args.labels},
            # Accelerators are scarce: the new pod gets those of the old one.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {
                    "labels": args.labels | {"llm-d.ai/role": args.stage.value},
                    "annotations": {DELETION_COST: "0", DOMAIN: "[]"},
                },
                "spec": _pod(args, rollout) | ({"schedulingGates": [{"name": GATE}]} if scaled else {}),
            },
        },
    }


def _pod(args: StagePoolArgs, rollout: str) -> Object:
    of_stage = args.policy.stages[args.stage]
    volume, mount = scratch("blobs", BLOB_DIR, in_memory=True)
    temporary, tmp = scratch("tmp", "/tmp")  # noqa: S108  # the root is read-only
    accelerators = _accelerators(args)
    containers, volumes = [], [volume, temporary]
    apart = of_stage.engine in SERVERS
    containers.append(_worker(args, rollout, [mount, tmp], {} if apart else accelerators))
    if apart:
        engine, more = engine_container(args.policy, args.stage, args.images, accelerators)
        containers.append(engine)
        volumes += more
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": args.priority_class,
        "terminationGracePeriodSeconds": of_stage.drain_s + _LEAVE_S,
        "securityContext": pod_security(),
        "tolerations": [_TOLERATION],
        "affinity": _affinity(args),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": args.labels},
            }
        ],
        "containers": containers,
        "volumes": volumes,
    }


def _worker(args: StagePoolArgs, rollout: str, mounts: list[Object], resources: Object) -> Object:
    chosen = [
        {"name": name, "valueFrom": {"configMapKeyRef": {"name": rollout, "key": name}}}
        for name in ("MODEL", "SLOTS", "HARDWARE")
    ]
    return {
        "name": "worker",
        "image": args.images.tercet,
        "command": ["python", "-P", "-m", "workers"],
        "env": [
            *pod_facts(),
            *secrets(args.secret),
            *chosen,
            {"name": "STAGE", "value": json.dumps(args.stage.value)},
            # Known once the controller has chosen a place, which is before any container starts.
            {"name": "DOMAIN", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{DOMAIN}']"}}},
            {"name": "TERCET_WORKER", "value": _worker_json(args.policy.stages[args.stage].drain_s)},
        ],
        "ports": [{"name": "blobs", "containerPort": BLOB_PORT}],
        "resources": resources or {"requests": {"cpu": "250m", "memory": "512Mi"}},
        "securityContext": container_security(),
        "volumeMounts": mounts,
        "startupProbe": tcp_probe(BLOB_PORT, periodSeconds=2, failureThreshold=_START_S // 2),
        "readinessProbe": tcp_probe(BLOB_PORT, periodSeconds=5),
        # The worker drains on SIGTERM; a second for those who read its last blobs to have connected.
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    }


def _accelerators(args: StagePoolArgs) -> Object:
    amount = str(args.policy.stages[args.stage].tp)
    if args.hardware == PROCESSORS:
        return {"requests": {"cpu": amount, "memory": "1Gi"}}
    whole = {ACCELERATOR_RESOURCE: amount}
    return {"requests": {"cpu": "2", "memory": "8Gi", **whole}, "limits": whole}


def _affinity(args: StagePoolArgs) -> Object:
    if args.hardware == PROCESSORS:
        return {}
    term = {"matchExpressions": [{"key": HARDWARE, "operator": "In", "values": [args.hardware]}]}
    needed = {"nodeSelectorTerms": [term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": needed}}


def _disruption_budget(args: StagePoolArgs) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(args.name, args.namespace, args.labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": args.labels}},
    }
