"""Media intake: bytes in, what they are out, everything bad refused with the part's path."""

import asyncio
import base64
import hashlib
import io
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestrator.api_errors import ApiError
from orchestrator.api_messages import MediaSource
from orchestrator.byte_budget import ByteBudget
from orchestrator.fetch import FetchError
from orchestrator.media import FETCHES_AT_ONCE, Media, MediaLimits, check_modalities, reserve_bytes, take_in
from stages.types import Modality

LIMITS = MediaLimits()
PARAM = "messages[0].content[1].image_url.url"


def image(kind: str = "PNG", size: tuple[int, int] = (4, 3), frames: int = 1) -> bytes:
    out = io.BytesIO()
    first, *rest = [Image.new("RGB", size, (index * 9, 255 - index, index)) for index in range(frames)]
    first.save(out, kind, **({"save_all": True, "append_images": rest} if rest else {}))
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of some 70 bytes that claims any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def source(url: str, modality: Modality = Modality.IMAGE, param: str = PARAM) -> MediaSource:
    return MediaSource(modality=modality, url=url, param=param)


class Web:
    """A fetcher with a page per URL that answers slowly, in halves, and knows how many ask at once."""

    def __init__(self, pages: dict[str, bytes] | None = None) -> None:
        self.pages = pages or {}
        self.now = 0
        self.peak = 0

    async def fetch(
        self, url: str, *, max_bytes: int, timeout_s: float, on_bytes: Callable[[int], None]
    ) -> bytes:
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await asyncio.sleep(0.002)
            if url not in self.pages:
                raise FetchError("unknown_host", "the host is unknown")
            page = self.pages[url]
            for piece in (page[:20], page[20:]):
                on_bytes(len(piece))
                await asyncio.sleep(0)
            return page
        finally:
            self.now -= 1


def taken(*sources: MediaSource, limits: MediaLimits = LIMITS, web: Web | None = None) -> tuple[Media, ...]:
    return asyncio.run(take_in(sources, limits, web or Web(), lambda size_bytes: None))


def refusal(*sources: MediaSource, limits: MediaLimits = LIMITS, web: Web | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        taken(*sources, limits=limits, web=web)
    assert caught.value.status == 400
    return caught.value


def test_an_image_is_known_by_its_bytes_not_by_its_label():
    raw = image("JPEG", (40, 30))
    (media,) = taken(source(data_url(raw, "image/png")))
    assert media == Media(
        modality=Modality.IMAGE,
        data=raw,
        sha256=hashlib.sha256(raw).hexdigest(),
        width_px=40,
        height_px=30,
        frames=1,
    )


def test_items_keep_their_order_whatever_takes_longer():
    pages = {f"https://a.test/{index}": image(size=(index + 1, 1)) for index in range(6)}
    sources = [source(url) for url in pages] + [source(data_url(image(size=(7, 1))))]
    assert [media.width_px for media in taken(*sources, web=Web(pages))] == [1, 2, 3, 4, 5, 6, 7]


def test_one_request_fetches_few_urls_at_once():
    web = Web({"https://a.test/": image()})
    taken(*[source("https://a.test/")] * 20, web=web)
    assert web.peak == FETCHES_AT_ONCE


def test_large_images_are_taken_in_threads():
    raw = image("BMP", (400, 400))
    assert taken(source(data_url(raw)))[0].data == raw


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize(("frames", "sampled"), [(1, 1), (3, 3), (5, 5), (12, 5)])
@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.VIDEO])
def test_animations_bring_at_most_so_many_frames(kind, frames, sampled, modality):
    item = source(data_url(image(kind, frames=frames)), modality)
    (media,) = taken(item, limits=MediaLimits(frames=5))
    assert (media.frames, media.modality) == (sampled, modality)


def test_audio_is_carried_unread():
    (media,) = taken(source("data:audio/wav;base64,UklGRg==", Modality.AUDIO))
    assert (media.data, media.width_px, media.height_px, media.frames) == (b"RIFF", 0, 0, 0)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        pytest.param("data:image/png;base64,@@@@", "invalid_base64", id="other-characters"),
        pytest.param("data:image/png;base64,AAA", "invalid_base64", id="no-padding"),
        pytest.param("data:image/png;base64,AAAA\nAAAA", "invalid_base64", id="line-break"),
        pytest.param("data:image/png;base64,AA==AAAA", "invalid_base64", id="padding-within"),
        pytest.param("data:image/png;base64,__--", "invalid_base64", id="url-safe"),
        pytest.param("data:image/png;base64,ÄÄÄÄ", "invalid_base64", id="no-ascii"),
        pytest.param("data:image/png,%89PNG", "invalid_data_url", id="percent-encoded"),
        pytest.param("data:image/png;base64", "invalid_data_url", id="no-comma"),
        pytest.param("data:", "invalid_data_url", id="nothing"),
        pytest.param("data:image/png;base64,", "empty_media", id="zero-bytes"),
        pytest.param(data_url(b"hello"), "not_an_image", id="text"),
        pytest.param(data_url(image()[:20]), "image_truncated", id="cut-header"),
        pytest.param(data_url(image()[:-4]), "image_truncated", id="cut-end"),
        pytest.param(data_url(bomb(0, 1)), "image_malformed", id="no-width"),
        pytest.param(data_url(bomb(30_000, 30_000)), "image_too_large", id="bomb"),
        pytest.param(data_url(bomb(2**31 - 1, 2**31 - 1)), "image_too_large", id="greatest-bomb"),
        pytest.param("https://nowhere.test/", "unknown_host", id="fetch-error"),
    ],
)
def test_bad_items_are_refused_with_their_path(url, code):
    error = refusal(source(data_url(image()), param="messages[0].content[0]"), source(url))
    assert (error.code, error.param) == (code, PARAM)
    assert error.message.startswith(PARAM) and len(error.message) < 250


def test_a_truncated_fetch_is_refused_as_well():
    web = Web({"https://a.test/": image("JPEG")[:-9]})
    assert refusal(source("https://a.test/"), web=web).code == "image_truncated"


def test_an_image_of_one_pixel_is_taken():
    assert taken(source(data_url(image(size=(1, 1)))))[0].width_px == 1


def test_frames_count_towards_the_pixels_of_an_animation():
    item = source(data_url(image("GIF", (10, 10), frames=4)))
    assert taken(item, limits=MediaLimits(image_px=400))[0].frames == 4
    assert refusal(item, limits=MediaLimits(image_px=399)).code == "image_too_large"


def test_video_in_other_containers_is_told_what_is_read():
    error = refusal(source(data_url(b"\0\0\0\x20ftypisom", "video/mp4"), Modality.VIDEO))
    assert error.code == "not_an_image"
    assert "animated GIF, WebP and PNG" in error.message


def test_too_many_items_are_refused_before_anything_is_read():
    web = Web({"https://a.test/": image()})
    error = refusal(*[source("https://a.test/")] * 200, web=web)
    assert (error.code, web.peak) == ("too_many_media", 0)
    assert "200" in error.message and "64" in error.message


def test_an_item_beyond_its_limit_is_refused():
    raw = image("BMP", (20, 20))
    assert taken(source(data_url(raw)), limits=MediaLimits(total_bytes=len(raw)))
    assert (
        refusal(source(data_url(raw)), limits=MediaLimits(total_bytes=len(raw) - 1)).code == "media_too_large"
    )


@pytest.mark.parametrize("url", [data_url(image()), "https://a.test/"])
def test_items_that_are_too_much_together_are_refused(url):
    limits = MediaLimits(total_bytes=3 * len(image()))
    web = Web({"https://a.test/": image()})
    assert len(taken(*[source(url)] * 3, limits=limits, web=web)) == 3
    assert refusal(*[source(url)] * 4, limits=limits, web=web).code == "media_too_large"


def test_modalities_are_checked_before_anything_is_read():
    sources = [
        source("https://a.test/"),
        source("https://a.test/2", Modality.AUDIO, "messages[1].content[0]"),
    ]
    with pytest.raises(ApiError) as caught:
        check_modalities(sources, {Modality.TEXT, Modality.IMAGE})
    assert (caught.value.status, caught.value.code) == (400, "modality_unserved")
    assert caught.value.param == "messages[1].content[0]"
    assert "audio" in caught.value.message and "image, text" in caught.value.message
    check_modalities(sources[:1], {Modality.TEXT, Modality.IMAGE})


def test_no_media_cost_nothing():
    assert taken() == ()
    assert reserve_bytes([]) == 0


def test_data_urls_are_reserved_beforehand_and_fetched_bytes_as_they_come():
    raw, url = image(), data_url(image())

    async def scenario():
        budget = ByteBudget(10_000)
        sources = [source(url), source("https://a.test/"), source("https://a.test/")]
        async with budget.hold(reserve_bytes(sources)) as grow:
            assert budget.held_bytes == len(url) + len(raw)
            await take_in(sources, LIMITS, Web({"https://a.test/": raw}), grow)
            assert budget.held_bytes == len(url) + 3 * len(raw)
        assert budget.held_bytes == 0

    asyncio.run(scenario())


def test_a_fetch_ends_when_the_gateways_memory_is_full():
    raw = image()

    async def scenario():
        budget = ByteBudget(len(raw) - 1)
        async with budget.hold(0) as grow:
            with pytest.raises(ApiError) as caught:
                await take_in([source("https://a.test/")], LIMITS, Web({"https://a.test/": raw}), grow)
            assert (caught.value.status, budget.held_bytes) == (503, 20)

    asyncio.run(scenario())


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=30)
    | st.binary(max_size=60).map(data_url)
    | st.binary(max_size=30).map(lambda b: data_url(bomb(5, 5) + b))
)
def test_any_data_url_gives_media_or_a_400(tail):
    url = tail if tail.startswith("data:") else f"data:image/png;base64,{tail}"
    try:
        (media,) = taken(source(url))
    except ApiError as error:
        assert (error.status, error.param) == (400, PARAM)
    else:
        assert media.width_px >= 1
