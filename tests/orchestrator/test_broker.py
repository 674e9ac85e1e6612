"""Addresses of Redis, as kombu has to be told them."""

import ssl

import pytest
from kombu import Connection

from orchestrator.broker import broker_url


@pytest.mark.parametrize(
    ("redis_url", "kombu_url"),
    [
        pytest.param("redis://:word@host:6379/0", "redis://:word@host:6379/0", id="plain"),
        pytest.param("unix:///run/redis.sock", "redis+socket:///run/redis.sock", id="socket"),
        pytest.param(
            "rediss://host:6379/0?ssl_cert_reqs=none", "rediss://host:6379/0?ssl_cert_reqs=none", id="chosen"
        ),
    ],
)
def test_an_address_is_spelt_as_kombu_has_it(redis_url, kombu_url):
    assert broker_url(redis_url) == kombu_url


@pytest.mark.parametrize("options", ["", "?ssl_ca_certs=/ca.crt"])
def test_certificates_are_checked_unless_somebody_says_otherwise(options):
    """Kombu's own default is to take every one."""
    with Connection(broker_url(f"rediss://host:6379/0{options}")) as connection:
        assert connection.ssl["ssl_cert_reqs"] == ssl.CERT_REQUIRED
