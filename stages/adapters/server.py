"""What is known of the engine server beside a worker."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from stages.http_url import http_url

DRIVEN = ("vllm", "sglang", "openai")
"""Engine servers that have an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineServer:
    """One server that does one stage.

    Attributes:
        kind: One of `DRIVEN`.
        url: `http://host:port`, without a final slash.
        model: Name under which it serves the model.
        token_bytes: KV cache of one position; ≥ 1. What the server says of its cache is in positions.
        silence_s: Without a byte of an answer for so long, a request has failed.
        start_s: A server may take so long to become healthy.
        peer_host: Where other servers reach it; empty: as `url` has it.
        kv_lease_s: For so long a prefill server keeps a KV cache that nobody fetches; vLLM's
            `kv_lease_duration`.
        encoders_called: Whether servers of its service that prefill call those that encode, as SGLang's do;
            workers tell them which there are.
        switches_roles: Whether it may be told to prefill instead of decode, or the reverse.
        peers: Where others do the stage that it shall do: a server that takes their role does as they do.
    """

    kind: str = "vllm"
    url: str
    model: str
    token_bytes: int = 1
    silence_s: float = 30.0
    start_s: float = 1800.0
    kv_lease_s: float = 30.0
    peer_host: str = ""
    encoders_called: bool = False
    switches_roles: bool = False
    peers: tuple[str, ...] = ()

    @property
    def peer_url(self) -> str:
        """Where other servers reach it."""
        return http_url(self.peer_host, urlsplit(self.url).port) if self.peer_host else self.url
