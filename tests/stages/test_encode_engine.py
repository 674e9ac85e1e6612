"""Encode: soft tokens of honest images, a clear refusal of everything else, a bounded cache."""

import io
import struct
import threading
import zlib
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.encode_engine import EmbeddingCache, EncodeCore, EncodeTask, ReferenceEncode
from stages.engines import BlobUnavailable, InvalidWork, WorkCancelled
from stages.images import decode_frames
from stages.limits import EngineLimits
from stages.memory_blobs import MemoryBlobs
from stages.types import BlobHandle, EncodeJob, MediaItem, Modality
from tests.stages.engine_kit import Call, eventually, job_fields


class MeanVision:
    """Two soft tokens a frame: its mean colour. Counts its calls; `gate` holds them up."""

    def __init__(self):
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, rgb):
        self.gate.wait(10)
        self.calls += 1
        return np.tile(rgb.reshape(-1, 3).mean(axis=0), (2, 1)).astype(np.float32)


def image_bytes(colour=(10, 20, 30), kind="PNG", size=(9, 7)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def animation(reds):
    frames = [Image.new("RGB", (4, 4), (red, 0, 0)) for red in reds]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=50)
    return out.getvalue()


def png_header(width, height):
    """A PNG that declares a size and holds hardly a byte of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10))


@pytest.fixture
def vision():
    return MeanVision()


@pytest.fixture
def blobs():
    return MemoryBlobs()


@pytest.fixture
def engine(vision, blobs):
    engine = ReferenceEncode(vision, blobs, EngineLimits(embedding_cache_bytes=100))
    yield engine
    vision.gate.set()
    engine.close()


def encode_job(blobs, data, *, frames=1, name=None, key="", tokens=None):
    item = MediaItem(
        modality=Modality.IMAGE,
        blob=blobs.put(data, owner="gateway", ttl_s=60),
        content_hash=name or str(hash(data)),
        width_px=1,
        height_px=1,
        frames=frames,
        tokens=2 * frames if tokens is None else tokens,
    )
    return EncodeJob(**job_fields(key), item=item)


def soft_tokens(blobs, ref):
    return np.frombuffer(blobs.get(ref.blob), np.float32).reshape(ref.tokens, ref.dim)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_an_image_becomes_soft_tokens(engine, blobs, kind):
    ref = engine.encode(encode_job(blobs, image_bytes((200, 100, 50), kind)))
    assert (ref.tokens, ref.dim) == (2, 3)
    np.testing.assert_allclose(soft_tokens(blobs, ref), [(200, 100, 50)] * 2, atol=4)


def test_a_clip_is_sampled_evenly(engine, blobs):
    ref = engine.encode(encode_job(blobs, animation([0, 40, 80, 120, 160, 200]), frames=3))
    np.testing.assert_allclose(soft_tokens(blobs, ref)[::2, 0], [0, 80, 160], atol=4)


def test_a_still_image_as_a_clip_repeats(engine, blobs):
    ref = engine.encode(encode_job(blobs, image_bytes((9, 9, 9)), frames=2))
    assert (soft_tokens(blobs, ref) == 9).all()


PHOTO = image_bytes(size=(64, 64), kind="JPEG")
PICTURE = image_bytes(size=(64, 64))
BAD = {
    "empty": b"",
    "text": b"hello",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "half-a-jpeg": PHOTO[: len(PHOTO) // 2],
    "half-a-png": PICTURE[: len(PICTURE) // 2],
    "bomb": png_header(30_000, 30_000),
    "large": png_header(9_000, 9_000),
    "no-pixels": png_header(0, 4),
    "missing-rows": png_header(64, 64),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_whole_image_is_invalid(engine, blobs, name):
    with pytest.raises(InvalidWork):
        engine.encode(encode_job(blobs, BAD[name]))
    assert engine.failed is None


@given(
    st.sampled_from([PHOTO, PICTURE, animation([1, 2, 3])]),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_give_pixels_or_invalid_work(data, draw):
    """Never another exception, never a hang."""
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        frames = decode_frames(bytes(damaged), 2, 100_000)
    except InvalidWork:
        return
    assert all(frame.ndim == 3 and frame.shape[2] == 3 for frame in frames)


def test_announced_tokens_must_be_right(engine, blobs):
    with pytest.raises(InvalidWork):
        engine.encode(encode_job(blobs, image_bytes(), tokens=5))
    with pytest.raises(InvalidWork):
        engine.encode(encode_job(blobs, image_bytes(), frames=0))


def test_a_missing_blob_names_itself(engine, blobs):
    job = encode_job(blobs, image_bytes(), key="g")
    blobs.release("gateway")
    with pytest.raises(BlobUnavailable):
        engine.encode(job)


def test_a_repeated_image_is_not_encoded_again_nor_fetched(engine, blobs, vision):
    first = engine.encode(encode_job(blobs, image_bytes(), name="same"))
    job = encode_job(blobs, image_bytes(), name="same")
    blobs.release("gateway")
    again = engine.encode(job)
    assert np.array_equal(soft_tokens(blobs, again), soft_tokens(blobs, first))
    assert (first.cached, again.cached) == (False, True)
    assert vision.calls == 1
    assert (engine.load().cache_queries, engine.load().cache_hits) == (4, 2)


def test_the_same_image_twice_at_once_is_encoded_once(engine, blobs, vision):
    vision.gate.clear()
    calls = [Call(engine.encode, encode_job(blobs, image_bytes(), name="same")) for _ in range(4)]
    eventually(lambda: engine.load().queued_tokens >= 6)
    vision.gate.set()
    for call in calls:
        call.result()
    assert vision.calls == 1


def test_other_frames_of_the_same_bytes_are_another_entry(engine, blobs):
    data = animation([0, 100])
    assert engine.encode(encode_job(blobs, data, frames=1)).tokens == 2
    assert engine.encode(encode_job(blobs, data, frames=2)).tokens == 4


def test_the_cache_keeps_within_its_bytes_and_forgets_the_least_recent():
    cache = EmbeddingCache(100)
    for name in "abcd":
        cache.put((name, 1), np.zeros(6, np.float32))
    assert cache.get(("a", 1)) is not None
    cache.put(("e", 1), np.zeros(6, np.float32))
    assert [name for name in "abcde" if cache.get((name, 1)) is not None] == ["a", "c", "d", "e"]
    cache.put(("big", 1), np.zeros(26, np.float32))
    assert cache.get(("big", 1)) is None


def task_with(frames, name):
    return EncodeTask(
        key=name,
        deadline_unix_s=0,
        tokens=2 * frames,
        cache_key=(name, frames),
        frames=deque(np.zeros((4, 4, 3), np.uint8) for _ in range(frames)),
    )


def test_an_image_does_not_wait_for_a_long_clip(vision):
    core = EncodeCore(vision, EmbeddingCache(100))
    clip, image = task_with(24, "clip"), task_with(1, "image")
    core.admit(clip)
    core.step()
    core.admit(image)
    assert core.load().queued_tokens == 2
    assert core.load().running_tokens == 48
    core.step()
    core.step()
    assert image.future.done()
    while core.step():
        pass
    assert clip.future.result().shape == (48, 3)


def test_cancel_ends_a_waiting_item(engine, blobs, vision):
    vision.gate.clear()
    first = Call(engine.encode, encode_job(blobs, image_bytes((1, 1, 1))))
    eventually(lambda: engine.load().step_age_s > 0)
    second = Call(engine.encode, encode_job(blobs, image_bytes((2, 2, 2)), key="b"))
    engine.cancel("b|h|1")
    eventually(lambda: engine.load().queued_tokens > 0)
    vision.gate.set()
    first.result()
    with pytest.raises(WorkCancelled):
        second.result()
    assert vision.calls == 1


def test_an_unknown_blob_address_is_unavailable(engine, blobs):
    job = encode_job(blobs, image_bytes())
    gone = BlobHandle(uri="shm://memory/none", sha256="", size_bytes=0, ttl_s=1)
    item = MediaItem(
        modality=Modality.IMAGE, blob=gone, content_hash="x", width_px=1, height_px=1, frames=1, tokens=2
    )
    with pytest.raises(BlobUnavailable, match="none"):
        engine.encode(EncodeJob(**job_fields(), item=item))
    assert engine.encode(job).tokens == 2
