"""The way to a gateway from outside the cluster, and how many gateways there are."""

from infra.objects.names import SKIP_AWAIT, Object, metadata
from infra.service_config import ExposeConfig

_BUSY_PERCENT = 70
"""Of the processor that a gateway asks for; requests wait well before its one event loop is always busy."""


def expose_objects(name: str, namespace: str, config: ExposeConfig) -> list[Object]:
    """Return an Ingress or an HTTPRoute to a gateway's Service, named as that is."""
    route = _ingress(name, config) if config.ingress_class else _http_route(name, config)
    return [
        {**route, "metadata": metadata(name, namespace, annotations={**config.annotations, **SKIP_AWAIT})}
    ]


def public_url(config: ExposeConfig) -> str:
    """Return where clients outside go; of a Gateway's listeners nothing is known, and TLS is assumed."""
    return f"{'https' if config.tls_secret or config.gateway else 'http'}://{config.host}"


def gateway_hpa(name: str, namespace: str, least: int, most: int) -> Object:
    """Return an HPA of gateways on their processors; it needs metrics-server."""
    target = {"type": "Utilization", "averageUtilization": _BUSY_PERCENT}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(name, namespace),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _ingress(name: str, config: ExposeConfig) -> Object:
    backend = {"service": {"name": name, "port": {"name": "http"}}}
    spec: Object = {
        "ingressClassName": config.ingress_class,
        "rules": [
            {
                "host": config.host,
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }
        ],
    }
    if config.tls_secret:
        spec["tls"] = [{"hosts": [config.host], "secretName": config.tls_secret}]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": spec}


def _http_route(name: str, config: ExposeConfig) -> Object:
    elsewhere = {"namespace": config.gateway_namespace} if config.gateway_namespace else {}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "spec": {
            "parentRefs": [{"name": config.gateway, **elsewhere}],
            "hostnames": [config.host],
            "rules": [
                {
                    "backendRefs": [{"name": name, "port": 80}],
                    # Streams last as long as `admission.deadline_s` lets them.
                    "timeouts": {"request": "0s"},
                }
            ],
        },
    }
