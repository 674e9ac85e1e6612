"""What is known of the engine server beside a worker."""

from dataclasses import dataclass

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
        bootstrap_host: Where decode servers reach an SGLang server that prefills; empty: as `url` has it.
        kv_lease_s: For so long a prefill server keeps a KV cache that nobody fetches; vLLM's
            `kv_lease_duration`.
    """

    kind: str = "vllm"
    url: str
    model: str
    token_bytes: int = 1
    silence_s: float = 30.0
    start_s: float = 1800.0
    kv_lease_s: float = 30.0
    bootstrap_host: str = ""
