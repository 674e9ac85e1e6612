"""What one replica can do per second, in its stage's unit, within the policy's promises.

Units: encode in image tokens, prefill in prompt tokens that no cache supplied, decode in output tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.profile import Accelerator, HardwareClass, ModelProfile
from stages.types import Stage

USABLE_MEMORY = 0.9
"""Fraction of accelerator memory for weights and KV caches; vLLM's default `gpu_memory_utilization`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What an average request looks like.

    Attributes:
        prompt_tokens: Prompt tokens that prefill computes, so without cache hits; > 0.
        context_tokens: KV positions of the prompt; images in cross-attention layers count as the positions
            whose bytes they take.
        output_tokens: Completion tokens; ≥ 1.
    """

    prompt_tokens: float
    context_tokens: float
    output_tokens: float


PRIOR = Mix(prompt_tokens=1_000.0, context_tokens=1_000.0, output_tokens=200.0)
"""What a request is taken to look like before the first has ended."""


def kv_capacity_tokens(
    profile: ModelProfile, stage: Stage, where: HardwareClass, accelerators: Mapping[str, Accelerator]
) -> int:
    """Return the KV positions that fit beside the weights; 0 or less if the model does not fit at all."""
    memory = accelerators[where.hardware].memory_bytes * where.tp * USABLE_MEMORY
    return int((memory - profile.weights_bytes[stage]) // profile.kv_bytes_per_token)


def encode_rate(profile: ModelProfile, where: HardwareClass) -> float:
    """Return image tokens per second of one encode replica."""
    return profile.image_tokens / profile.encode[where].image_s


def prefill_rate(profile: ModelProfile, where: HardwareClass) -> float:
    """Return prompt tokens per second of one prefill replica when work waits.

    Prompts share a step, so its steps are then full whatever the length of a prompt.
    """
    return profile.chunk_tokens / profile.prefill[where].step_s(profile.chunk_tokens)


def prefill_s(profile: ModelProfile, where: HardwareClass, tokens: float) -> float:
    """Return the seconds of one prefill replica for one prompt, in steps of a chunk, without waiting."""
    timing, chunk = profile.prefill[where], profile.chunk_tokens
    full = tokens // chunk
    return full * timing.step_s(chunk) + timing.step_s(tokens - full * chunk)


def encoded_s(images: int, *, image_s: float, images_at_once: int, preprocess_s: float = 0.0) -> float:
    """Return the time until the images of a request that is alone are encoded; 0.0 without any.

    Args:
        images: Of the request.
        image_s: Seconds of one replica for one of them.
        images_at_once: Encoded side by side; ≥ 1. They are encoded in rounds.
        preprocess_s: Before the first round; preparing does not wait for accelerators.
    """
    return preprocess_s + -(-images // images_at_once) * image_s if images else 0.0


def isolated_ttft_s(
    profile: ModelProfile,
    encode: HardwareClass,
    prefill: HardwareClass,
    *,
    images: int,
    text_tokens: float,
    images_at_once: int,
) -> float:
    """Return by a profile the time to first token of a request that is alone, transfers left out.

    `waiting.isolated_by_rates_s` estimates it where there are only rates.
    """
    tokens = text_tokens + profile.kappa * images * profile.image_tokens
    image_s, preprocess_s = profile.encode[encode].image_s, profile.preprocess_s
    before_s = encoded_s(images, image_s=image_s, images_at_once=images_at_once, preprocess_s=preprocess_s)
    return before_s + prefill_s(profile, prefill, tokens)


def decode_batch(
    profile: ModelProfile, where: HardwareClass, mix: Mix, *, tpot_s: float, slots: int, kv_tokens: int
) -> int:
    """Return the largest batch of average sequences within TPOT, slots and KV; 0 if not even one is.

    A sequence's context is, on average over its life, its prompt and half of its completion. Its KV
    reservation is its prompt and its whole completion.
    """
    timing = profile.decode[where]
    held = mix.context_tokens + mix.output_tokens
    alive = mix.context_tokens + mix.output_tokens / 2.0
    spare_s = tpot_s - timing.step_s
    each_s = timing.sequence_s + alive * timing.context_token_s
    if spare_s < 0.0 or kv_tokens < held:
        return 0
    within_tpot = slots if slots * each_s <= spare_s else int(spare_s / each_s)
    return min(within_tpot, slots, int(kv_tokens / held))


def decode_rate(
    profile: ModelProfile, where: HardwareClass, mix: Mix, *, tpot_s: float, slots: int, kv_tokens: int
) -> float:
    """Return output tokens per second of one decode replica at its largest batch; 0.0 if it has none.

    B/ITL(B) grows with B, so the largest batch within the bounds is the fastest.
    """
    batch = decode_batch(profile, where, mix, tpot_s=tpot_s, slots=slots, kv_tokens=kv_tokens)
    alive = mix.context_tokens + mix.output_tokens / 2.0
    return batch / profile.decode[where].itl_s(batch, batch * alive) if batch else 0.0
