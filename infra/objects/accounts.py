"""Service accounts and what they may ask of the API server."""

from infra.objects.names import Object, metadata

Rules = list[Object]


def account(name: str, namespace: str, rules: Rules) -> list[Object]:
    """Return a ServiceAccount, and the Role with its binding that says what it may do in its namespace."""
    named = metadata(name, namespace)
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        _role("Role", named, rules),
        _binding("RoleBinding", named, "Role", name, namespace),
    ]


def everywhere(name: str, namespace: str, rules: Rules) -> list[Object]:
    """Return the ClusterRole with its binding that lets an account do something in all namespaces."""
    cluster_name = f"{namespace}-{name}"
    named = metadata(cluster_name)
    return [
        _role("ClusterRole", named, rules),
        _binding("ClusterRoleBinding", named, "ClusterRole", name, namespace),
    ]


def _role(kind: str, named: Object, rules: Rules) -> Object:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": named, "rules": rules}


def _binding(kind: str, named: Object, role_kind: str, name: str, namespace: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": named,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": named["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
