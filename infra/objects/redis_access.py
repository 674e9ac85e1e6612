"""How a stack's pods reach Redis: the stack's own or somebody else's, with or without TLS."""

from dataclasses import dataclass

from infra.objects.names import Object
from infra.objects.pods import from_secret
from infra.shared_config import BrokerConfig
from orchestrator.shards import shard_of

REDIS_PORT = 6379
BROKER = "redis"
REDIS_URL = "$(REDIS_URL)"
"""What Kubernetes replaces by the URL in an environment that begins with `redis_environment`."""

SECRET_PASSWORD = "password"  # noqa: S105  # names of a Secret's keys
SECRET_URL = "url"  # noqa: S105

TLS_DIR = "/etc/tercet/redis"
CA_FILE = "ca.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """A volume of certificates, and its mount."""

    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()


def redis_environment(config: BrokerConfig, service: str | None = None) -> list[Object]:
    """Return the environment that holds `REDIS_URL`: of a service's shard, or of all shards, by spaces.

    A password is put in as it is: it has to be free of characters that a URL gives a meaning to.
    """
    shards = range(config.shards) if service is None else (shard_of(service, config.shards),)
    if config.external_port:
        keys = url_keys(config.shards)
        own = [from_secret(f"REDIS_URL_{shard}", config.secret, keys[shard]) for shard in shards]
        return [*own, {"name": "REDIS_URL", "value": " ".join(f"$({entry['name']})" for entry in own)}]
    return [
        from_secret("REDIS_PASSWORD", config.secret, SECRET_PASSWORD),
        {"name": "REDIS_URL", "value": " ".join(_url(config, shard) for shard in shards)},
    ]


def _url(config: BrokerConfig, shard: int) -> str:
    scheme, options = ("rediss", f"?ssl_ca_certs={TLS_DIR}/{CA_FILE}") if config.tls_secret else ("redis", "")
    host = BROKER if config.shards == 1 else f"{BROKER}-{shard}.{BROKER}"  # a pod of the StatefulSet
    return f"{scheme}://:$(REDIS_PASSWORD)@{host}:{REDIS_PORT}/0{options}"


def url_keys(shards: int) -> list[str]:
    """Return under which keys a Secret has the URLs of so many servers, in order."""
    return [SECRET_URL] if shards == 1 else [f"{SECRET_URL}-{shard}" for shard in range(shards)]


def tls_files(config: BrokerConfig, *keys: str) -> TlsFiles:
    """Return the files of the TLS Secret with these keys, the authority's certificate by default."""
    if not config.tls_secret:
        return TlsFiles()
    items = [{"key": key, "path": key} for key in keys or (CA_FILE,)]
    return TlsFiles(
        volumes=({"name": "redis-tls", "secret": {"secretName": config.tls_secret, "items": items}},),
        mounts=({"name": "redis-tls", "mountPath": TLS_DIR, "readOnly": True},),
    )
