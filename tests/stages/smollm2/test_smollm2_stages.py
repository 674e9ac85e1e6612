"""Encode, prefill and decode as engines: in one process, and each in a process of its own."""

import io
import multiprocessing
import time
from dataclasses import replace

import pytest
from PIL import Image

from stages.front import Turn
from stages.generate import Generator
from stages.limits import EngineLimits
from stages.memory_blobs import MemoryBlobs
from stages.models import build_engine
from stages.smollm2.samples import crossword, spider_web
from stages.types import DecodeJob, EncodeJob, MediaItem, Modality, PrefillJob, Sampling, Stage

pytestmark = pytest.mark.smollm2

LIMITS = EngineLimits(kv_budget_bytes=64 * 2**20)
JOB = {"request_id": "r", "hop": "h", "attempt": 1, "reply_to": "", "model": "smollm2"}


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def smollm2():
    with Generator("smollm2", LIMITS) as generator:
        yield generator


@pytest.mark.parametrize(("draw", "word"), [(crossword, "crossword"), (spider_web, "web")])
def test_it_names_what_a_drawing_shows(smollm2, draw, word):
    turns = [Turn(role="user", text="What is in this picture?", media=(0,))]
    completion = smollm2.generate(turns, [png(draw())], Sampling(max_tokens=16))
    assert word in completion.text


def run_stage(stage, job, blobs, results):
    """Run one stage on bytes; the blob of its result comes back as bytes too."""
    store = MemoryBlobs()

    def put(data):
        return store.put(data, owner="r", ttl_s=60)

    engine = build_engine("smollm2", stage, store, LIMITS)
    try:
        if stage is Stage.ENCODE:
            ref = engine.encode(replace(job, item=replace(job.item, blob=put(blobs[0]))))
        elif stage is Stage.PREFILL:
            embeddings = [replace(e, blob=put(b)) for e, b in zip(job.embeddings, blobs, strict=True)]
            ref = engine.prefill(replace(job, embeddings=tuple(embeddings)))
        else:
            chunks = []
            engine.decode(replace(job, kv=replace(job.kv, blob=put(blobs[0]))), chunks.append)
            results.send((tuple(token for chunk in chunks for token in chunk.tokens), b""))
            return
        results.send((ref, bytes(store.get(ref.blob))))
    finally:
        engine.close()


def in_process(stage, job, blobs):
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=run_stage, args=(stage, job, blobs, send), daemon=True)
    child.start()
    assert receive.poll(100)
    result = receive.recv()
    child.join(10)
    return result


@pytest.mark.parametrize(
    "sampling", [Sampling(max_tokens=12), Sampling(max_tokens=12, temperature=1, seed=5)]
)
def test_three_processes_give_the_tokens_of_one(smollm2, sampling):
    image = png(spider_web())
    turns = [Turn(role="user", text="Describe the image.", media=(0,))]
    expected = smollm2.generate(turns, [image], sampling).tokens

    fields = JOB | {"deadline_unix_s": time.time() + 100}
    blob = MemoryBlobs().put(image, owner="r", ttl_s=60)
    item = MediaItem(
        modality=Modality.IMAGE, blob=blob, content_hash="w", width_px=240, height_px=240, frames=1, tokens=6
    )
    soft, soft_bytes = in_process(Stage.ENCODE, EncodeJob(**fields, item=item), [image])
    prompt = smollm2.front.prompt(turns, ["w"], [6])
    prefill = PrefillJob(**fields, prompt=prompt, embeddings=(soft,), sampling=sampling)
    kv, kv_bytes = in_process(Stage.PREFILL, prefill, [soft_bytes])
    tokens, _ = in_process(Stage.DECODE, DecodeJob(**fields, kv=kv, sampling=sampling), [kv_bytes])
    assert tokens == expected
