import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape, Split
from stages.types import Modality, Stage


def media(tokens=9, modality=Modality.IMAGE):
    return MediaShape(modality=modality, tokens=tokens)


def test_text_alone_skips_encode():
    tagged = tag(7, [], kappa=1, max_tokens=16)
    assert tagged.stages == (Stage.PREFILL, Stage.DECODE)
    assert tagged.modalities == {Modality.TEXT}
    assert (tagged.encode_tokens, tagged.prefill_tokens, tagged.output_tokens) == (0, 7, 16)


def test_media_passes_all_stages_in_order_and_keeps_its_own_order():
    tagged = tag(7, [media(9), media(72, Modality.VIDEO)], kappa=1, max_tokens=16)
    assert tagged.stages == (Stage.ENCODE, Stage.PREFILL, Stage.DECODE)
    assert tagged.modalities == {Modality.TEXT, Modality.IMAGE, Modality.VIDEO}
    assert tagged.item_tokens == (9, 72)


@pytest.mark.parametrize(
    ("split", "images", "stages"),
    [
        (Split(), [], "PD"),
        (Split(), [9], "EPD"),
        (Split(prefill_from=None), [9], "ED"),
        (Split(encode_from=None), [9], "PD"),
        (Split(encode_from=None, prefill_from=None), [9], "D"),
        (Split(encode_from=10), [9], "PD"),
        (Split(encode_from=10), [9, 1], "EPD"),
        (Split(prefill_from=17), [9], "ED"),
        (Split(prefill_from=16), [9], "EPD"),
        (Split(prefill_from=16), [], "D"),
    ],
)
def test_a_request_passes_the_stages_that_its_size_calls_for(split, images, stages):
    """Seven tokens of text and some images."""
    tagged = tag(7, [media(n) for n in images], kappa=1, max_tokens=1, split=split)
    assert "".join(stage[0].upper() for stage in tagged.stages) == stages
    assert all(split.uses(stage) for stage in tagged.stages)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 5_000), max_size=8), st.sampled_from([0, 1]))
def test_media_loads_prefill_only_with_kappa_1_and_always_takes_context(text, tokens, kappa):
    tagged = tag(text, [media(n) for n in tokens], kappa=kappa, max_tokens=1)
    assert tagged.encode_tokens == sum(tokens)
    assert tagged.prefill_tokens == text + kappa * sum(tokens)
    assert tagged.context_tokens == text + sum(tokens)
