"""How a stack's pods reach Redis: the stack's own or somebody else's, with or without TLS."""

from dataclasses import dataclass

from infra.objects.names import Object
from infra.objects.pods import from_secret
from infra.shared_config import BrokerConfig

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


def redis_environment(config: BrokerConfig) -> list[Object]:
    """Return the environment that holds `REDIS_URL`.

    A password is put in as it is: it has to be free of characters that a URL gives a meaning to.
    """
    if config.external_port:
        return [from_secret("REDIS_URL", config.secret, SECRET_URL)]
    scheme, options = ("rediss", f"?ssl_ca_certs={TLS_DIR}/{CA_FILE}") if config.tls_secret else ("redis", "")
    url = f"{scheme}://:$(REDIS_PASSWORD)@{BROKER}:{REDIS_PORT}/0{options}"
    return [
        from_secret("REDIS_PASSWORD", config.secret, SECRET_PASSWORD),
        {"name": "REDIS_URL", "value": url},
    ]


def tls_files(config: BrokerConfig, *keys: str) -> TlsFiles:
    """Return the files of the TLS Secret with these keys, the authority's certificate by default."""
    if not config.tls_secret:
        return TlsFiles()
    items = [{"key": key, "path": key} for key in keys or (CA_FILE,)]
    return TlsFiles(
        volumes=({"name": "redis-tls", "secret": {"secretName": config.tls_secret, "items": items}},),
        mounts=({"name": "redis-tls", "mountPath": TLS_DIR, "readOnly": True},),
    )
