"""tiny through all three engines: right answers, and the same ones however the work is staged."""

import io
import itertools
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.front import Turn
from stages.generate import Generator, generate
from stages.limits import EngineLimits
from stages.memory_blobs import MemoryBlobs
from stages.models import MODELS, build_engine, front
from stages.tiny.data import NUMBERS, heldout_digit
from stages.tiny.vocab import WORDS
from stages.types import (
    DecodeJob,
    EncodeJob,
    FinishReason,
    MediaItem,
    Modality,
    PrefillJob,
    Sampling,
    Stage,
)
from tests.stages.engine_kit import Call, job_fields


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


DIGITS = [(png(pixels), label) for pixels, label in map(heldout_digit, range(12))]
ASK = (Turn(role="user", text="what digit is shown ?", media=(0,)),)


@pytest.fixture(scope="module")
def tiny():
    with Generator("tiny") as generator:
        yield generator


def test_tiny_reads_digits(tiny):
    right = sum(NUMBERS[label] in tiny.generate(ASK, [image]).text for image, label in DIGITS)
    assert right >= 10


def test_one_call_needs_no_set_up():
    image, _ = DIGITS[0]
    completion = generate("tiny", ASK, [image])
    assert completion.text.startswith("the digit is")
    assert completion.finish is FinishReason.STOP


def test_a_stop_string_is_not_part_of_the_text(tiny):
    completion = tiny.generate(ASK, [DIGITS[0][0]], Sampling(max_tokens=32, stop=(" is",)))
    assert (completion.text, completion.finish) == ("the digit", FinishReason.STOP)


QUESTIONS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=24).map(" ".join)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 1.0, 2.0]),
    top_p=st.sampled_from([0.8, 1.0]),
    seed=st.integers(0, 3),
)
REQUESTS = st.tuples(QUESTIONS, st.lists(st.integers(0, 11), max_size=3, unique=True), SAMPLINGS)


def turns_for(question, images):
    return (Turn(role="user", text=question, media=tuple(range(len(images)))),)


def fresh_completion(question, images, sampling):
    """In engines that have seen nothing else."""
    return generate("tiny", turns_for(question, images), [DIGITS[i][0] for i in images], sampling)


@given(requests=st.lists(REQUESTS, min_size=1, max_size=4), k=st.integers(0, 12))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_staged_output_equals_one_process_output_token_for_token(tiny, requests, k):
    """Over prompts, images, batch mixes, warm caches, and a retry behind k tokens."""
    calls = [
        Call(tiny.generate, turns_for(q, images), [DIGITS[i][0] for i in images], sampling)
        for q, images, sampling in requests
    ]
    for (question, images, sampling), call in zip(requests, calls, strict=True):
        alone = fresh_completion(question, images, sampling)
        assert call.result() == alone
        lost = alone.tokens[: min(k, len(alone.tokens))]
        assert retried(tiny, question, images, sampling, lost) == alone


_numbers = itertools.count()


def retried(tiny, question, images, sampling, lost):
    name = f"retry-{next(_numbers)}"
    soft = [tiny.encode(name, DIGITS[i][0]) for i in images]
    prompt = tiny.front.prompt(
        turns_for(question, images), [s.content_hash for s in soft], [s.tokens for s in soft]
    )
    kv = tiny.prefill(name, prompt, soft, sampling, lost)
    return tiny.decode(name, kv, sampling, lost)


def test_fronts_load_neither_weights_nor_numpy():
    code = (
        "import sys; from stages.models import MODELS, front;"
        "names = [front(n).name for n in ('tiny', 'noop')]; print(names, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['tiny', 'noop'] False"


def test_an_unknown_model_is_a_key_error():
    with pytest.raises(KeyError):
        front("gpt")
    assert {"tiny", "noop"} <= set(MODELS)


class TestNoop:
    """The engines of the benchmark keep the Protocols' promises without computing."""

    blobs = MemoryBlobs()
    limits = EngineLimits()

    def engine(self, stage):
        return build_engine("noop", stage, self.blobs, self.limits)

    def test_three_hops(self):
        handle = self.blobs.put(b"x", owner="g", ttl_s=60)
        item = MediaItem(
            modality=Modality.IMAGE,
            blob=handle,
            content_hash="h",
            width_px=1,
            height_px=1,
            frames=1,
            tokens=front("noop").media_tokens(Modality.IMAGE, 1, 1, 1),
        )
        soft = self.engine(Stage.ENCODE).encode(EncodeJob(**job_fields(), item=item))
        sampling = Sampling(max_tokens=4)
        prompt = front("noop").prompt([Turn(role="user", text="a b")], ["h"], [soft.tokens])
        kv = self.engine(Stage.PREFILL).prefill(
            PrefillJob(**job_fields(), prompt=prompt, embeddings=(soft,), sampling=sampling)
        )
        assert kv.tokens == len(prompt.token_ids) == 3
        assert kv.blob.size_bytes == kv.tokens * front("noop").kv_bytes_per_token
        for generated in ((), (0, 0), (0, 0, 0, 0)):
            chunks = []
            job = DecodeJob(**job_fields(), kv=kv, sampling=sampling, generated=generated)
            finish = self.engine(Stage.DECODE).decode(job, chunks.append)
            assert finish is chunks[-1].finish is FinishReason.LENGTH
            assert [c.index for c in chunks] == list(range(len(generated), 4)) or not chunks[-1].tokens
            assert sum(len(c.tokens) for c in chunks) == 4 - len(generated)
