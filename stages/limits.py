"""How much one engine process may take on."""

from dataclasses import dataclass

DEFAULT_CONTEXTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of an engine; each stage reads those that concern it.

    Attributes:
        kv_budget_bytes: KV memory, for running prompts and the prefix cache, or for running decodes. None
            is room for `DEFAULT_CONTEXTS` full contexts of the model.
        max_batch: Decodes in one step at most.
        chunk_tokens: Prompt tokens in one prefill step at most.
        embedding_cache_bytes: Embeddings kept by the encoder for repeated media.
        max_image_pixels: Larger media are refused before a pixel is decoded.
        blob_ttl_s: Time to live of results in the blob store.
    """

    kv_budget_bytes: int | None = None
    max_batch: int = 64
    chunk_tokens: int = 64
    embedding_cache_bytes: int = 16 * 2**20
    max_image_pixels: int = 40_000_000
    blob_ttl_s: float = 600.0

    def kv_bytes(self, max_context: int, kv_bytes_per_token: int) -> int:
        """Return the KV memory of an engine for a model of these sizes."""
        if self.kv_budget_bytes is None:
            return DEFAULT_CONTEXTS * max_context * kv_bytes_per_token
        return self.kv_budget_bytes
