"""What one emulated engine is."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """Whose wire format an engine speaks."""

    VLLM = "vllm"
    SGLANG = "sglang"


RELEASES = {Kind.VLLM: "0.32.0", Kind.SGLANG: "0.5.23"}
"""Whose interface is emulated unless a configuration names another."""


class Role(StrEnum):
    """What an engine does: one stage, or all of them."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"

    @property
    def produces_embeddings(self) -> bool:
        """Whether it hands embeddings on, vLLM's `ec_producer`, and generates nothing."""
        return self is Role.ENCODE

    @property
    def moves_kv(self) -> bool:
        """Whether it has a KV connector. NIXL's knows no roles: each may keep KV caches and fetch them."""
        return self in (Role.PREFILL, Role.DECODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTiming:
    """How long an engine's steps take, in seconds; nothing by default.

    Attributes:
        image_s: Of one image.
        prefill_s: Of a step that computes so many prompt tokens.
        decode_s: Of a step in which so many sequences, with so many tokens of context in all, make a token.
        transfer_s: Of fetching the KV cache of so many tokens.
    """

    image_s: float = 0.0
    prefill_s: Callable[[int], float] = lambda tokens: 0.0
    decode_s: Callable[[int, int], float] = lambda sequences, context_tokens: 0.0
    transfer_s: Callable[[int], float] = lambda tokens: 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorConfig:
    """One emulated engine.

    Attributes:
        kind: See `Kind`.
        model: Name under which it serves.
        version: Release of the engine; empty for the one in `RELEASES`.
        max_model_len: Tokens of a prompt and its completion at most.
        block_size: Tokens in a block of the KV cache.
        blocks: Blocks of the KV cache; at least one request of `max_model_len` must fit.
        max_seqs: Requests in the batch at most.
        chunk_tokens: Prompt tokens in one step at most.
        image_tokens: Of every image; 0 counts them by its size, as Qwen2.5-VL does.
        media_limits: Items of a modality in a request at most.
        other_media_tokens: Of a video or an audio clip, whose files are not looked into.
        http_media: Whether http(s) media URLs are taken for media; they are not fetched.
        eos_every: One token in so many ends an answer; 0 for none, so that `max_tokens` ends it.
        ec_dir: Where encoders leave embeddings; the same for all engines that share them.
        side_host: Where others reach the side channel, which is bound to the same address.
        side_port: 0 takes a free one.
        lease_s: For so long a KV cache waits to be fetched.
        handshake_s: For so long a decode engine tries to reach a side channel.
        language_only: Whether media are encoded by SGLang's encoders that it calls, `--language-only`.
        encoder_port: Of its list of encoders, `--encoder-bootstrap-port`; 0 takes a free one.
        role_switch: Whether prefill and decode may change places while it runs, `--enable-pd-role-switch`.
        scale_out: Whether it has vLLM's `--enable-scale-out` endpoints, tokens in and tokens out.
        speed_up: Divides the times of steps and transfers, and nothing else.
    """

    role: Role
    kind: Kind = Kind.VLLM
    model: str = "emulated"
    version: str = ""
    max_model_len: int = 32_768
    block_size: int = 16
    blocks: int = 8192
    max_seqs: int = 256
    chunk_tokens: int = 2048
    image_tokens: int = 0
    media_limits: dict[str, int] = field(default_factory=lambda: {"image": 999, "video": 0, "audio": 0})
    other_media_tokens: int = 256
    http_media: bool = False
    eos_every: int = 0
    ec_dir: str = str(Path(tempfile.gettempdir()) / "tercet-emulator")
    side_host: str = "127.0.0.1"
    side_port: int = 0
    lease_s: float = 30.0
    handshake_s: float = 5.0
    language_only: bool = False
    encoder_port: int = 0
    role_switch: bool = False
    scale_out: bool = True
    speed_up: float = 1.0

    @property
    def release(self) -> str:
        """Version that it says it is."""
        return self.version or RELEASES[self.kind]

    def __post_init__(self) -> None:
        if self.blocks * self.block_size < self.max_model_len:
            raise ValueError(
                f"{self.blocks} blocks of {self.block_size} tokens hold no request of "
                f"{self.max_model_len} tokens (max_model_len)"
            )
        if self.language_only and (self.kind is not Kind.SGLANG or self.role is Role.ENCODE):
            raise ValueError("only SGLang's language servers call encoders (language_only)")
        if self.role_switch and not (self.kind is Kind.SGLANG and self.role.moves_kv):
            raise ValueError("only SGLang's servers that prefill or decode change roles (role_switch)")
        if self.speed_up <= 0:
            raise ValueError(f"a speed-up of {self.speed_up:g} is none")
