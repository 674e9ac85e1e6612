"""The pods of a stage pool: the worker, and the engine beside it if that is a server of its own."""

import json
import re
from dataclasses import asdict
from math import ceil

from infra.objects.engines import PORT, START_S, engine_container
from infra.objects.names import Object
from infra.objects.network import HANDS_ON
from infra.objects.pods import (
    BLOB_DIR,
    BLOB_PORT,
    ROLE_FILE,
    blob_token,
    blobs,
    container_security,
    pod_facts,
    pod_security,
    role_file,
    scratch,
    tcp_probe,
)
from infra.objects.pool_args import StagePoolArgs
from infra.objects.redis_access import REDIS_URL, redis_environment, tls_files
from orchestrator.kube_names import (
    ACCELERATOR_RESOURCE,
    DOMAIN,
    GATE,
    HARDWARE,
    PROCESSORS,
    SERVICE,
    STAGE,
)
from orchestrator.policy import SERVERS
from stages.adapters.server import DRIVEN, EngineServer

MAX_IMAGE_PX = 400_000_000
"""The gateway holds media to the live `image_px`; engines refuse only what no policy should allow."""

_TOLERATION = {"key": ACCELERATOR_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
"""Of any value: clouds taint nodes with accelerators alike but for that."""

_START_S = 600
_LEAVE_S = 10
"""Seconds beyond the drain: closing engines and leaving the registry."""


def replica_pod(args: StagePoolArgs, rollout: str) -> Object:
    """Return the spec of a replica's pod, or of its first one if it spans several nodes."""
    volume, mount = scratch("blobs", BLOB_DIR, in_memory=True)
    temporary, tmp = scratch("tmp", "/tmp")  # noqa: S108  # the root is read-only
    certificates = tls_files(args.broker)
    apart = args.of_stage.engine in SERVERS
    roles = [role_file()] if args.movable else []
    mounts = [mount, tmp, *certificates.mounts, *(mounted for _, mounted in roles)]
    containers = [_worker(args, rollout, mounts, {} if apart else _accelerators(args))]
    volumes = [volume, temporary, *certificates.volumes, *(held for held, _ in roles)]
    if apart:
        engine, more = _engine(args, leads=True)
        containers.append(engine)
        volumes += more
    return _pod(args, containers, volumes)


def follower_pod(args: StagePoolArgs) -> Object:
    """Return the spec of the further pods of a replica that spans several nodes."""
    engine, volumes = _engine(args, leads=False)
    return _pod(args, [engine], volumes)


def _engine(args: StagePoolArgs, *, leads: bool) -> tuple[Object, list[Object]]:
    return engine_container(
        args.policy,
        args.stage,
        args.images,
        _accelerators(args),
        nodes=args.nodes,
        leads=leads,
    )


def _pod(args: StagePoolArgs, containers: list[Object], volumes: list[Object]) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": args.priority_class,
        "terminationGracePeriodSeconds": args.drain_s + _LEAVE_S,
        "securityContext": pod_security(),
        "tolerations": [] if args.hardware == PROCESSORS else [_TOLERATION],
        "affinity": _hardware(args) | ({} if args.gated else _nearness(args)),
        "containers": containers,
        "volumes": volumes,
    } | (_gate() if args.gated else _spread(args))


def _gate() -> Object:
    """Leave the place to the controller: Karpenter makes a node for each pods that could be spread."""
    return {"schedulingGates": [{"name": GATE}]}


def _spread(args: StagePoolArgs) -> Object:
    return {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": args.labels},
            }
        ]
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
            *redis_environment(args.broker, args.policy.service),
            blob_token(args.broker.secret),
            *chosen,
            {"name": "STAGE", "value": json.dumps(args.stage.value)},
            # Known once the controller has chosen a place, which is before any container starts.
            {"name": "DOMAIN", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{DOMAIN}']"}}},
            {"name": "TERCET_WORKER", "value": _worker_json(args)},
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


def _worker_json(args: StagePoolArgs) -> str:
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
        "grace_s": args.drain_s,
        **(_server(args) if args.of_stage.engine in DRIVEN else {}),
        **(_roles(args) if args.movable else {}),
    }
    return re.sub(r'"<(\w+)>"', r"$(\1)", json.dumps(config))


def _server(args: StagePoolArgs) -> Object:
    """Return what the worker is told of the engine beside it."""
    server = EngineServer(
        kind=args.of_stage.engine,
        url=f"http://127.0.0.1:{PORT}",
        model=args.policy.model.name,
        token_bytes=args.token_bytes,
        start_s=START_S,
        peer_host="$(POD_IP)",  # the worker's loopback is another pod's too
        encoders_called=args.policy.encoders_called,
        switches_roles=args.policy.switches_roles,
    )
    return {"server": asdict(server), "modalities": [each.value for each in args.policy.model.modalities]}


def _roles(args: StagePoolArgs) -> Object:
    """Return where the worker is told which stage to do: by its pod's label."""
    slots = {role.value: args.policy.stages[role].batch for role in args.policy.roles(args.stage)}
    return {"roles": {"file": ROLE_FILE, "slots": slots}}


def _accelerators(args: StagePoolArgs) -> Object:
    amount = str(args.of_stage.tp // args.nodes)
    if args.hardware == PROCESSORS:
        return {"requests": {"cpu": amount, "memory": _memory(args, 1024)}}
    whole = {ACCELERATOR_RESOURCE: amount}
    return {"requests": {"cpu": "2", "memory": _memory(args, 8192), **whole}, "limits": whole}


def _memory(args: StagePoolArgs, least_mib: int) -> str:
    """Return what a process takes of its host: weights pass through its memory while they are loaded."""
    return f"{least_mib + ceil(args.weights_bytes / args.nodes / 2**20)}Mi"


def _hardware(args: StagePoolArgs) -> Object:
    if args.hardware == PROCESSORS:
        return {}
    term = {"matchExpressions": [{"key": HARDWARE, "operator": "In", "values": [args.hardware]}]}
    needed = {"nodeSelectorTerms": [term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": needed}}


def _nearness(args: StagePoolArgs) -> Object:
    """Have Kubernetes' scheduler rather choose the zone of those whom a stage exchanges data with.

    Zones alone: levels of the policy are live fields, and pods are not replaced for those.
    """
    peers = {"key": STAGE, "operator": "In", "values": [each.value for each in HANDS_ON[args.stage]]}
    chosen = {"matchLabels": {SERVICE: args.policy.service}, "matchExpressions": [peers]}
    term = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": chosen}
    wish = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
