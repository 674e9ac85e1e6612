"""What an engine refuses, as vLLM 0.32 was seen to, and what breaks the contract between engines."""

import json

import pytest

from stages.emulator.chat import read_chat, work_of
from stages.emulator.config import EmulatorConfig, Role
from stages.emulator.errors import EngineError
from stages.emulator.media import MediaCache, image_grid
from stages.emulator.vocabulary import IMAGE_PAD
from tests.stages.emulator.kit import REMOTE_DECODE, chat, image

AGGREGATED = EmulatorConfig(role=Role.AGGREGATED, max_model_len=1024)
PREFILL = EmulatorConfig(role=Role.PREFILL)
GIVEN = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2]],
    "remote_engine_id": "e",
    "remote_request_id": "r",
    "remote_host": "h",
    "remote_port": 1,
    "remote_num_tokens": 20,
}


def work(body, config=AGGREGATED, cache=None):
    return work_of(read_chat(json.dumps(body).encode()), config, cache or MediaCache())


def part(**inner):
    return {"type": "image_url", "image_url": inner}


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        (chat("x", model="nope"), 404, "model", "The model `nope` does not exist. Valid aliases: emulated."),
        (chat("x", max_tokens=0), 400, "max_tokens", "max_tokens must be at least 1, got 0."),
        (chat("x", max_tokens=2000), 400, "max_tokens", "cannot be greater than max_model_len=1024"),
        (chat("x", temperature=-1), 400, "temperature", "temperature must be non-negative, got -1.0."),
        (chat("X" * 1024), 400, "input_tokens", "your prompt contains at least 1025 input tokens"),
        (chat("x", stream_options={}), 400, "stream_options", "can only be defined when `stream=True`"),
        (chat("x", messages=[]), 400, None, "empty conversation"),
        (chat("x", messages="x"), 400, "body.messages", "1 validation error"),
        (chat("x", kv_transfer_params="x"), 400, "body.kv_transfer_params", "1 validation error"),
        (chat({"type": "foo", "foo": 1}), 400, "type", "Unsupported chat content part type: 'foo'."),
        (chat({"type": "image_url", "uuid": "u"}), 400, "type", "Missing 'type' field"),
        (chat(image(image_url=None, uuid="u")), 400, None, "Cache miss for image at index 0 but data"),
        (chat(part(url="data:image/png;base64,AAAA")), 400, None, "Failed to load image: cannot identify"),
        (chat(part(url="data:image/png;base64,@@@")), 400, None, "Non-base64 digit found"),
        (chat(part(url="data:image/png,foo")), 501, None, "Only base64 data URLs are supported for now."),
        (chat(part(url="ftp://x/x.png")), 400, None, "The URL must be either a HTTP, data or file URL."),
        (chat(part(url="http://x/x.png")), 400, "url", "media must come as data: URLs"),
        (chat({"type": "video_url", "video_url": {"url": "data:"}}), 400, "video", "At most 0 video(s)"),
    ],
)
def test_refusals(body, status, param, words):
    with pytest.raises(EngineError) as caught:
        work(body)
    error = json.loads(caught.value.body())["error"]
    assert (caught.value.status, error["code"], error["param"]) == (status, status, param)
    assert words in error["message"]


def test_a_body_that_is_no_json_is_refused():
    with pytest.raises(EngineError) as caught:
        read_chat(b"{")
    assert (caught.value.status, caught.value.kind) == (400, "Bad Request")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"kv_transfer_params": REMOTE_DECODE}, "max_tokens"),
        ({"kv_transfer_params": REMOTE_DECODE, "max_tokens": 1, "stream": True}, "stream"),
        ({"kv_transfer_params": REMOTE_DECODE, "max_tokens": 1, "max_completion_tokens": 9}, "max_tokens"),
        ({"kv_transfer_params": {"do_remote_decode": False}}, "kv_transfer_params"),
        ({"kv_transfer_params": GIVEN | {"do_remote_decode": True}}, "kv_transfer_params"),
        *(({"kv_transfer_params": GIVEN | {name: None}}, "kv_transfer_params") for name in list(GIVEN)[2:]),
        ({"kv_transfer_params": GIVEN | {"remote_block_ids": [1, 2]}}, "kv_transfer_params"),
    ],
)
def test_the_contract_between_engines_is_checked(fields, param):
    with pytest.raises(EngineError) as caught:
        work(chat("x", **fields), PREFILL)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_parameters_as_given_are_taken():
    order = work(chat("x", kv_transfer_params=GIVEN), PREFILL).kv
    assert order and order.source and order.source.request_id == "r" and not order.keep


def test_an_engine_without_a_connector_ignores_parameters():
    assert work(chat("x", kv_transfer_params={"what": "ever"})).kv is None


def test_the_completion_is_bounded_by_the_context():
    long = "X" * 1000
    asked = work(chat(long))
    assert asked.max_tokens == 1024 - len(asked.prompt) < 24
    assert work(chat("x", max_tokens=None)).max_tokens > 1000
    assert work(chat("x", max_tokens=9, max_completion_tokens=5)).max_tokens == 5


def test_an_image_is_placeholders_by_its_size():
    asked = work(chat(image(), "what is this", image(1)))
    assert asked.prompt.count(IMAGE_PAD) == 32
    assert [medium.grid for medium in asked.media] == [(1, 8, 8), (1, 8, 8)]
    assert len({medium.key for medium in asked.media}) == 2


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((112, 112), (1, 8, 8)),
        ((100, 200), (1, 14, 8)),
        ((10, 10), (1, 4, 4)),
        ((10_000, 5_000), (1, 180, 362)),
    ],
)
def test_patches_of_an_image(size, grid):
    assert image_grid(*size) == grid


def test_a_uuid_is_the_key_and_stands_for_what_it_stood_for():
    cache = MediaCache()
    (first,) = work(chat(image(uuid="u")), cache=cache).media
    (again,) = work(chat(image(image_url=None, uuid="u")), cache=cache).media
    assert first.key == "u" and again == first
    assert (cache.queries, cache.hits) == (2, 1)


def test_equal_content_is_one_medium_with_or_without_a_uuid():
    (named,) = work(chat(image(uuid="u"))).media
    (plain,) = work(chat(image())).media
    assert named.content == plain.content == plain.key != named.key


def test_http_media_may_be_allowed():
    config = EmulatorConfig(role=Role.AGGREGATED, http_media=True)
    (medium,) = work(chat(part(url="http://x/a.png")), config).media
    assert medium.tokens == 256
