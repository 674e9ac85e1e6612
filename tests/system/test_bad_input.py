"""What clients get wrong is told to them as OpenAI's API would, and costs nobody else anything."""

import json
import struct
import time
import zlib
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.system.harness import System, data_url, digit_png, question

END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
LEAKS = ("Traceback", "/usr/", "/home/", ".py", "site-packages", "redis", "127.0.0.1", " at 0x")


def refused(system: System, body: Any, status: int, **options: Any) -> dict[str, Any]:
    """Send, and return the error, which has OpenAI's shape and says nothing of the inside."""
    response = system.post(body, **options)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    sent = body.decode("latin-1") if isinstance(body, bytes) else json.dumps(body)
    assert not [leak for leak in LEAKS if leak in error["message"] and leak not in sent], error
    assert len(error["message"]) < 500
    return dict(error)


def about(url: str, kind: str = "image_url") -> dict[str, Any]:
    content = [{"type": "text", "text": "what digit is shown ?"}, {"type": kind, kind: {"url": url}}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def text(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"
        + END
    )


def png(width: int, height: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


BROKEN_BODIES: dict[str, tuple[Any, int, str | None, str | None]] = {
    # what: body, status, code, param
    "malformed JSON": (b'{"model": "tiny", "messages": [', 400, "invalid_json", None),
    "no body": (b"", 400, "invalid_json", None),
    "not UTF-8": (b'{"model": "\xff"}', 400, "invalid_json", None),
    "nested too deeply": (b"[" * 50_000, 400, "invalid_json", None),
    "a list": ([], 400, "invalid_type", None),
    "missing messages": ({"model": "tiny"}, 400, "missing_required_parameter", "messages"),
    "empty messages": ({"model": "tiny", "messages": []}, 400, "empty_array", "messages"),
    "messages no list": ({"model": "tiny", "messages": "hi"}, 400, "invalid_type", "messages"),
    "missing model": ({"messages": [{"role": "user", "content": "what"}]}, 400, None, "model"),
    "unknown model": (text("what ?") | {"model": "gpt-9"}, 404, "model_not_found", "model"),
    "unknown role": (
        {"model": "tiny", "messages": [{"role": "robot", "content": "what"}]},
        400,
        "invalid_value",
        "messages[0].role",
    ),
    "unknown part type": (
        text([{"type": "smell", "smell": {}}]),
        400,
        "invalid_value",
        "messages[0].content[0].type",
    ),
    "max_tokens 0": (text("what ?", max_tokens=0), 400, "value_below_min", "max_tokens"),
    "max_tokens negative": (text("what ?", max_tokens=-5), 400, "value_below_min", "max_tokens"),
    "max_completion_tokens 0": (
        text("what ?", max_completion_tokens=0),
        400,
        "value_below_min",
        "max_completion_tokens",
    ),
    "temperature too high": (text("what ?", temperature=3), 400, "value_above_max", "temperature"),
    "stream no boolean": (text("what ?", stream="yes"), 400, "invalid_type", "stream"),
    "audio, which tiny has no engine for": (
        text([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
        400,
        "modality_unserved",
        "messages[0].content[0].input_audio.data",
    ),
    "a prompt beyond the context": (text("what " * 2_000), 400, "context_length_exceeded", "messages"),
    "a completion beyond the context": (
        text("what ?", max_tokens=5_000),
        400,
        "context_length_exceeded",
        "messages",
    ),
    "200 images": (
        question("what digit is shown ?", *[data_url(png(4, 4))] * 200),
        400,
        "too_many_media",
        "messages[0].content[65].image_url.url",
    ),
}


@pytest.mark.parametrize("what", BROKEN_BODIES)
def test_a_broken_body_is_refused_by_name(system: System, what: str) -> None:
    body, status, code, param = BROKEN_BODIES[what]
    error = refused(system, body, status)
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code or error["code"])


def cut_jpeg() -> bytes:
    out = BytesIO()
    Image.effect_noise((96, 96), 50).convert("RGB").save(out, "JPEG")
    return out.getvalue()[: len(out.getvalue()) // 2]


BROKEN_IMAGES = {
    "broken base64": ("data:image/png;base64,@@@@", "invalid_base64"),
    "base64 without padding": ("data:image/png;base64,AAAAA", "invalid_base64"),
    "no base64": ("data:image/png,abc", "invalid_data_url"),
    "zero bytes": ("data:image/png;base64,", "empty_media"),
    "not an image": (data_url(b"hello, I am a text file, really"), None),
    "an image cut inside its header": (data_url(digit_png(0)[0][:20]), "image_truncated"),
    "an image cut inside its pixels": (data_url(digit_png(0)[0][:999]), "image_truncated"),
    "a JPEG cut inside its pixels": (data_url(cut_jpeg()), "image_truncated"),
    "declared 30,000×30,000 pixels": (data_url(png_header(30_000, 30_000)), "image_too_large"),
    "no pixels": (data_url(png_header(0, 0)), None),
    "an unknown scheme": ("ftp://example.com/cat.png", "invalid_url"),
    "a file": ("file:///etc/passwd", "invalid_url"),
}


@pytest.mark.parametrize("what", BROKEN_IMAGES)
def test_a_broken_image_is_refused_with_its_path(system: System, what: str) -> None:
    url, code = BROKEN_IMAGES[what]
    error = refused(system, about(url), 400)
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert error["code"] == (code or error["code"])
    assert error["code"] is not None


def png_of_rubbish() -> bytes:
    """A PNG whose chunks are whole and whose pixels end in their midst."""
    body = zlib.compress(bytes(96 * 40))[:-8]
    chunk = b"IDAT" + body
    return png_header(96, 96)[:33] + b"".join(
        (struct.pack(">I", len(body)), chunk, struct.pack(">I", zlib.crc32(chunk)), END)
    )


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_found_to_be_truncated_only_when_decoded_is_a_400(system: System, stream: bool) -> None:
    error = refused(system, about(data_url(png_of_rubbish())) | {"stream": stream}, 400)
    assert error["code"] == "invalid_media"


def test_a_decompression_bomb_is_refused_from_its_header_at_once(system: System) -> None:
    started_s = time.monotonic()
    refused(system, about(data_url(png_header(30_000, 30_000))), 400)
    assert time.monotonic() - started_s < 1.0


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (3_000, 1)])
def test_tiny_and_odd_images_are_answered(system: System, width: int, height: int) -> None:
    assert system.answer(about(data_url(png(width, height)))) is not None


def test_a_body_beyond_the_limit_is_a_413(system: System) -> None:
    """20 MB, with its length declared and without."""
    body = json.dumps(about("data:image/png;base64," + "A" * 20_000_000)).encode()
    assert refused(system, body, 413)["code"] == "request_too_large"
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    with httpx.Client(base_url=system.url, timeout=30, trust_env=False, verify=False) as client:
        response = client.post("/v1/chat/completions", content=pieces)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_an_unknown_word_names_the_command_that_lists_the_known_ones(system: System) -> None:
    error = refused(system, text("what zebra is shown ?"), 400)
    assert error["code"] == "unknown_word"
    assert "zebra" in error["message"]
    assert "tercet models vocab tiny" in error["message"]


UNSUPPORTED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "logprobs": True,
    "response_format": {"type": "json_object"},
    "n": 2,
    "frequency_penalty": 0.5,
    "logit_bias": {"5": 1},
    "reasoning_effort": "high",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_field_is_refused_by_name(system: System, name: str) -> None:
    error = refused(system, text("what ?", **{name: UNSUPPORTED[name]}), 400)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")


def test_an_unknown_field_is_ignored_with_a_warning(system: System) -> None:
    response = system.post(text("what ?", max_tokens=1, colour_of_hat="red", logprobs=False))
    assert response.status_code == 200
    assert response.headers["x-tercet-warning"] == "ignored unknown fields: colour_of_hat"


PRIVATE = [
    "http://127.0.0.1:{port}/health",
    "http://localhost:{port}/health",
    "http://[::1]:{port}/health",
    "http://[::ffff:127.0.0.1]:{port}/health",
    "http://0.0.0.0:{port}/health",
    "http://10.0.0.1/cat.png",
    "http://192.168.1.1/cat.png",
    "http://172.16.0.1/cat.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "http://[fe80::1]/cat.png",
    "http://[fd00:ec2::254]/latest/meta-data/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_not_fetched_from(system: System, url: str) -> None:
    error = refused(system, about(url.format(port=system.port)), 400)
    assert error["code"] == "address_not_allowed"


@pytest.mark.parametrize(
    "url", ["http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://u:p@example.com/"]
)
def test_odd_spellings_of_addresses_are_not_urls(system: System, url: str) -> None:
    assert refused(system, about(url), 400)["code"] == "invalid_url"


def test_an_unknown_host_is_the_clients_error(system: System) -> None:
    assert refused(system, about("http://no-such-host.invalid/cat.png"), 400)["code"] == "unknown_host"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-tercet-deadline-ms", "0"),
        ("x-tercet-deadline-ms", "soon"),
        ("x-tercet-deadline-ms", "9" * 30),
        ("x-tercet-priority", "101"),
        ("x-tercet-priority", "-101"),
        ("x-tercet-priority", "1.5"),
        ("x-tercet-priority", "٣"),
    ],
)
def test_headers_out_of_range_are_refused(system: System, header: str, value: str) -> None:
    headers = {header: value.encode()}
    error = refused(system, text("what ?"), 400, headers=headers)
    assert error["code"] == "invalid_header"
    assert header in error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PART = st.one_of(
    JSON,
    st.builds(lambda t: {"type": "text", "text": t}, JSON | st.sampled_from(["what digit is shown ?"])),
    st.builds(
        lambda data: {"type": "image_url", "image_url": {"url": data}},
        st.binary(max_size=60).map(data_url) | st.just(data_url(png(2, 2))) | st.text(max_size=30),
    ),
)
MESSAGE = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "tool", "x"]),
            "content": JSON | st.lists(PART),
        }
    ),
)
BODY = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["tiny", "tiny", "other"]) | JSON,
        "messages": st.lists(MESSAGE, max_size=3) | JSON,
    },
    optional={
        "max_tokens": st.integers(-2, 4) | JSON,
        "stream": st.booleans() | JSON,
        "stop": JSON,
        "temperature": st.floats() | JSON,
        "top_p": JSON,
        "seed": JSON,
        "stream_options": JSON,
        "n": JSON,
        "tools": JSON,
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODY, cut=st.integers(0, 40))
def test_no_body_gives_a_500_or_a_hang(system: System, body: dict[str, Any], cut: int) -> None:
    """Whatever is sent, the answer is a 200 or a 4xx, within seconds."""
    data = json.dumps(body).encode()
    response = _FUZZER.post(
        f"{system.url}/v1/chat/completions", content=data[:-cut] if cut > 30 else data, timeout=10
    )
    assert response.status_code in (200, 400, 404), (body, response.text)
    if response.status_code != 200:
        assert response.json()["error"]["message"]


_FUZZER = httpx.Client(trust_env=False, verify=False)
