"""The KV cache of a request: its prompt, its media wherever they are kept, and what was said."""

import pytest

from orchestrator.core.kv import KvSizes, kv_bytes, kv_positions, kv_sizes
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape
from orchestrator.profiles import find_profile
from stages.types import Modality

TEXT, SAID = 100, 7


def tagged(kappa: int, *media_tokens: int):
    items = [MediaShape(modality=Modality.IMAGE, tokens=tokens) for tokens in media_tokens]
    return tag(TEXT, items, kappa=kappa, max_tokens=50)


@pytest.mark.parametrize(
    ("kappa", "sizes", "bytes_", "positions"),
    [
        pytest.param(
            1, KvSizes(token_bytes=10), (TEXT + 90 + SAID) * 10, TEXT + 90 + SAID, id="in-the-prompt"
        ),
        pytest.param(
            0,
            KvSizes(token_bytes=10, crossed_bytes=150, crossed_tokens=60),
            (TEXT + SAID) * 10 + 225,
            TEXT + SAID + 22,
            id="crossed",
        ),
        pytest.param(0, KvSizes(token_bytes=10), (TEXT + SAID) * 10, TEXT + SAID, id="nowhere"),
    ],
)
def test_media_are_kept_in_the_prompt_or_in_cross_attention(kappa, sizes, bytes_, positions):
    """Two images of 60 and 30 tokens; cross-attention keeps 150 bytes of every 60."""
    request = tagged(kappa, 60, 30)
    assert (kv_bytes(request, sizes, SAID), kv_positions(request, sizes, SAID)) == (bytes_, positions)


def test_a_profiled_image_takes_what_its_profile_says():
    """Four images of Llama 3.2 beside its text: 1,601 positions' worth each."""
    llama = find_profile("llama-3.2-11b-vision")
    sizes = kv_sizes(llama.kappa, llama.kv_bytes_per_token, llama)
    request = tagged(llama.kappa, *[llama.image_tokens] * 4)
    assert kv_bytes(request, sizes, 0) == TEXT * llama.kv_bytes_per_token + 4 * llama.image_kv_bytes
    assert kv_positions(request, sizes, 0) == TEXT + 4 * 1601


def test_without_a_profile_media_are_taken_to_fill_every_layer():
    unknown = kv_sizes(0, 10, None)
    assert kv_bytes(tagged(0, 60), unknown, 0) == kv_bytes(tagged(1, 60), kv_sizes(1, 10, None), 0)
