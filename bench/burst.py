"""The burst that `routing` plays: a minute of a published trace, as requests with their targets."""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.images import chat, png
from bench.processes import ROOT
from cli.pressure.sse import chat_request
from orchestrator.core.capacity import isolated_ttft_s
from orchestrator.core.profile import HardwareClass, ModelProfile
from orchestrator.profiles import find_profile
from orchestrator.simulator.traces import read_trace
from orchestrator.simulator.workload import TRACED_IMAGE_TOKENS, Workload

TRACE = ROOT / "data" / "traces" / "azure_lmm_window_2024-10-16.csv"
PROFILE = "internvl-26b"
WHERE = HardwareClass("a100", 1)
MODEL = "OpenGVLab/InternVL2_5-26B"

IMAGE_TOKENS = find_profile(PROFILE).image_tokens

TTFT_S, STRETCH = 2.0, 5.0
"""As in policies/internvl-26b.yaml: seconds to the first token, or so many times a lone request's."""
TPOT_S = 0.13
"""Five times a lone request's, as that policy's 0.05 is on the four H100s that it asks for."""
_IMAGES, _TEXT_TOKENS = 4, 8192
"""Of a request at most; its images are the trace's tiles, by the profile's tiles an image."""
_OUTPUT_SHARE = 0.25
"""Of the trace's completions: two cores hold the engines, and each token is an event on them."""
_SESSION_HEADERS = ("x-session-id", "x-smg-routing-key")
"""Some policies of others route by session; each request is one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of a burst.

    Attributes:
        at_s: When it is sent, from the beginning.
        ttft_s: Its target.
        body: The HTTP request.
    """

    at_s: float
    images: int
    ttft_s: float
    body: bytes


def burst(start_s: float, end_s: float, rate: float, seed: int) -> list[Ask]:
    """Return the trace's requests between two seconds of it at `rate` times their number.

    Args:
        start_s: Of the trace.
        end_s: Of the trace.
        rate: Above 1 some requests come once more, between the original and the next; the seed says which.
        seed: Of that, and of texts and pictures, which no other seed has.
    """
    traced, _ = read_trace(TRACE)
    work = traced.slice(start_s, end_s).scaled(rate=rate, rng=np.random.default_rng(seed))
    profile, rng = find_profile(PROFILE), random.Random(seed)
    return [
        Ask(
            at_s=at_s,
            images=images,
            ttft_s=max(TTFT_S, STRETCH * _alone_s(profile, images, text_tokens)),
            body=_body(images, text_tokens, output_tokens, rng),
        )
        for at_s, images, text_tokens, output_tokens in _shapes(work, profile.image_tiles)
    ]


def _alone_s(profile: ModelProfile, images: int, text_tokens: int) -> float:
    return isolated_ttft_s(profile, WHERE, WHERE, images=images, text_tokens=text_tokens, images_at_once=1)


def _shapes(work: Workload, tiles: int) -> Iterator[tuple[float, int, int, int]]:
    """Yield second, images, text tokens and output tokens of each request."""
    text = np.clip(work.context_tokens - TRACED_IMAGE_TOKENS * work.images, 1, _TEXT_TOKENS)
    images = np.minimum(work.of_tiles(tiles).images, _IMAGES)
    output = np.maximum(1, np.rint(_OUTPUT_SHARE * work.output_tokens))
    for at_s, *sizes in zip(work.arrival_s, images, text, output, strict=True):
        yield float(at_s), int(sizes[0]), int(sizes[1]), int(sizes[2])


def _body(images: int, text_tokens: int, output_tokens: int, rng: random.Random) -> bytes:
    letters = "".join(rng.choices(string.ascii_lowercase, k=3 * text_tokens))
    # A token to the emulated engines, and to whoever counts four bytes as one.
    text = "".join(f" {letters[at : at + 3]}" for at in range(0, len(letters), 3))
    pictures = [png(28, 28, rng.getrandbits(32)) for _ in range(images)]
    streamed = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    body = chat(MODEL, text, pictures, max_tokens=output_tokens, **streamed)
    return chat_request(body, **dict.fromkeys(_SESSION_HEADERS, f"{rng.getrandbits(64):x}"))
