"""What differs between two inputs of a resource, and what of it Kubernetes changes by a new object alone."""

_FORCE_NEW = {
    ("apps/v1", "Deployment"): ["spec.selector"],
    ("apps/v1", "StatefulSet"): [
        "spec.podManagementPolicy",
        "spec.revisionHistoryLimit",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ],
    ("batch/v1", "Job"): ["spec.completions", "spec.parallelism", "spec.selector", "spec.template"],
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): ["roleRef"],
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): ["roleRef"],
    ("v1", "Secret"): ["type"],
    ("v1", "Service"): ["spec.clusterIP"],
}
"""The official provider's table, for the kinds that this project makes."""

_IDENTITY = ["apiVersion", "kind", "metadata.name", "metadata.namespace"]
_DATA = ["data", "binaryData", "stringData"]


def differences(old, new, path=()):
    """Yield the path of each value that is not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key in old and key in new:
                yield from differences(old[key], new[key], (*path, key))
            else:
                yield (*path, key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, (*path, place))
    elif old != new:
        yield path


def replaces(path, old, mutable_kinds):
    """Return whether a difference takes a new object.

    Args:
        path: Of the difference.
        old: Inputs of the object that is there.
        mutable_kinds: ConfigMap, Secret: those whose data may be changed in place, if they are not immutable.
    """
    kind = old["kind"]
    forced = _IDENTITY + _FORCE_NEW.get((old["apiVersion"], kind), [])
    if kind in ("ConfigMap", "Secret") and (kind not in mutable_kinds or old.get("immutable")):
        forced = forced + _DATA
    return any(path[: len(prefix)] == prefix for prefix in (tuple(each.split(".")) for each in forced))


def is_same_object(old, new):
    """Return whether both would have one place in the API, so that the old has to go before the new comes."""
    place = [
        (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")) for each in (old, new)
    ]
    return place[0] == place[1]


def written(path):
    """Return a path as Pulumi writes property paths."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif set(key) & set('.["]/'):
            text += f'["{key}"]'
        else:
            text += f".{key}" if text else key
    return text
