"""The replicas of one stage on one hardware class: a Deployment or LeaderWorkerSet and its belongings."""

import json
from typing import Any

from infra.objects.names import SKIP_AWAIT, Object, digest, metadata
from infra.objects.network import group_edges
from infra.objects.pool_args import StagePoolArgs
from infra.objects.scalers import scaler_objects
from infra.objects.stage_pod import follower_pod, replica_pod
from orchestrator.kube_names import DELETION_COST, DOMAIN, MOVABLE

_QUEUE = "kueue.x-k8s.io/queue-name"


def pool_objects(args: StagePoolArgs) -> list[Object]:
    """Return ConfigMap, what makes the pods, PodDisruptionBudget, and a scaler but for the controller."""
    rollout = _rollout(args)
    pods = _groups if args.nodes > 1 else _deployment
    made = [rollout, pods(args, rollout["metadata"]["name"]), _disruption_budget(args)]
    if args.nodes > 1:
        made.append(group_edges(args.name, args.namespace, args.labels))
    return [*made, *scaler_objects(args)]


def _rollout(args: StagePoolArgs) -> Object:
    """Return the immutable ConfigMap of the fields that replace pods: each a value of JSON."""
    fields: dict[str, Any] = {
        "MODEL": args.policy.model.name,
        "KAPPA": args.policy.model.kappa,
        "MAX_CONTEXT": args.policy.model.max_context,
        "ENGINE": args.of_stage.engine,
        "HARDWARE": args.hardware,
        "TP": args.of_stage.tp,
        "SLOTS": args.of_stage.batch,
    }
    data = {name: json.dumps(value) for name, value in fields.items()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(f"{args.name}-{digest(data)[:10]}", args.namespace, args.labels),
        "immutable": True,
        "data": data,
    }


def _metadata(args: StagePoolArgs) -> Object:
    queue = {_QUEUE: args.queue} if args.queue else {}
    # Gated and queued pods do not become ready by themselves: nobody should wait for them.
    return metadata(args.name, args.namespace, args.labels | queue, SKIP_AWAIT)


def _template(args: StagePoolArgs, pod: Object) -> Object:
    movable = {MOVABLE: "true"} if args.movable else {}
    return {
        "metadata": {
            "labels": args.labels | {"llm-d.ai/role": args.stage.value},
            "annotations": {DELETION_COST: "0", DOMAIN: "[]", **movable, **args.start},
        },
        "spec": pod,
    }


def _deployment(args: StagePoolArgs, rollout: str) -> Object:
    return {
        "apiVersion": args.target["apiVersion"],
        "kind": args.target["kind"],
        "metadata": _metadata(args),
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": args.labels},
            # Accelerators are scarce: the new pod gets those of the old one.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": _template(args, replica_pod(args, rollout)),
        },
    }


def _groups(args: StagePoolArgs, rollout: str) -> Object:
    """Return a LeaderWorkerSet: each replica is a group of pods that start, fail and end together."""
    return {
        "apiVersion": args.target["apiVersion"],
        "kind": args.target["kind"],
        "metadata": _metadata(args),
        "spec": {
            "replicas": args.replicas,
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "leaderWorkerTemplate": {
                "size": args.nodes,
                # Tensor parallel ranks cannot go on without one of them.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _template(args, replica_pod(args, rollout)),
                "workerTemplate": _template(args, follower_pod(args)),
            },
        },
    }


def _disruption_budget(args: StagePoolArgs) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(args.name, args.namespace, args.labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": args.labels}},
    }
