"""The decoder says what a plain forward pass says, and says it bit for bit in any company."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from stages.front import Turn
from stages.smollm2.front import SmolFront
from stages.smollm2.model import language_model
from stages.smollm2.prepare import prepare
from stages.smollm2.samples import spider_web
from stages.smollm2.vision import SmolVision
from stages.transformer import Segment

pytestmark = pytest.mark.smollm2

QUESTIONS = ("What is the capital of France?", "Count from 1 to 5.", "Write a line of Python.")


@pytest.fixture(scope="module")
def front():
    return SmolFront()


@pytest.fixture(scope="module")
def plain():
    from tests.stages.smollm2.plain_llama import PlainLlama

    return PlainLlama()


def rows_of(model, front, question, soft=None):
    media = () if soft is None else (0,)
    turn = Turn(role="user", text=question, media=media)
    prompt = front.prompt([turn], ["hash"] * len(media), [len(soft)] if media else [])
    rows = model.embed(prompt.token_ids)
    for span in prompt.media:
        rows[span.offset : span.offset + span.length] = soft
    return rows


class Sequence:
    """One sequence: `feed` rows in chunks, get the last row's logits."""

    def __init__(self, model):
        self.model, self.slab, self.length = model, model.new_slab(256), 0

    def segment(self, rows):
        segment = Segment(slab=self.slab, start=self.length, rows=rows)
        self.length += len(rows)
        return segment

    def feed(self, rows):
        return self.model.logits(self.model.forward([self.segment(rows)])[-1:])[0]


def greedy(model, rows, count):
    sequence, out = Sequence(model), []
    logits = sequence.feed(rows)
    while len(out) < count and (token := int(np.argmax(logits))) != 2:
        out.append(token)
        logits = sequence.feed(model.embed([token]))
    return out


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_text_is_a_plain_forward_passs(model, front, plain, question):
    rows = rows_of(model, front, question)
    assert greedy(model, rows, 8) == plain.greedy(rows, 8)


def test_soft_tokens_read_as_in_a_plain_forward_pass(model, front, plain):
    soft = SmolVision(prepare()).encode(spider_web())
    rows = rows_of(model, front, "What is in this picture?", soft)
    np.testing.assert_allclose(Sequence(model).feed(rows), plain.logits(rows), atol=2e-3)
    assert "web" in front.detokenize(greedy(model, rows, 16))


def test_the_paris_question(model, front):
    assert "Paris" in front.detokenize(greedy(model, rows_of(model, front, QUESTIONS[0]), 12))


@pytest.mark.parametrize("others", [1, 4, 10])
def test_a_rows_bits_do_not_depend_on_its_company(model, front, others):
    """Decode alone and amid `others` at other positions: equal logits, bit for bit, at every step."""
    prompts = [rows_of(model, front, f"{QUESTIONS[i % 3]} {'again ' * i}") for i in range(others + 1)]
    alone = Sequence(model)
    expected = [alone.feed(prompts[0]), *(alone.feed(model.embed([t])) for t in (504, 2, 9))]
    batch = [Sequence(model) for _ in prompts]
    got = [s.feed(rows) for s, rows in zip(batch, prompts, strict=True)][:1]
    for token in (504, 2, 9):
        # The one under test last, so that its place in the tile differs from that of a lone row.
        outputs = model.forward([s.segment(model.embed([token])) for s in [*batch[1:], batch[0]]])
        got.append(model.logits(outputs)[-1])
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.parametrize("sizes", [(64, 64), (1, 5, 60), (17, 17, 17, 17)])
def test_chunks_of_a_prompt_do_not_change_bits(model, front, sizes):
    rows = rows_of(model, front, "Why is the sky blue at noon and red at dusk? " * 10)
    whole, parts, start = Sequence(model), Sequence(model), 0
    expected = whole.feed(rows)
    for size in sizes:
        parts.feed(rows[start : start + size])
        start += size
    got = parts.feed(rows[start:])
    assert np.array_equal(whole.slab, parts.slab)
    assert np.array_equal(expected, got)


def weight_bytes(ready, directory, pipe):
    """Touch every weight; when all have, send what smaps says of the mapped weights (RSS, PSS)."""
    model = language_model(directory)
    model.logits(model.forward([Segment(slab=model.new_slab(32), start=0, rows=model.embed(range(8)))]))
    ready.wait()
    sizes, mapped = {"Rss:": 0, "Pss:": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *fields = line.split()
        if "-" in name:
            mapped = line.endswith(".npy")
        elif mapped and name in sizes:
            sizes[name] += int(fields[0]) * 1024
    pipe.send(tuple(sizes.values()))
    ready.wait()


def test_two_workers_share_one_copy_of_the_weights():
    """Each has them all resident, yet its proportional set size is half of them or less."""
    directory = prepare()
    size = sum(path.stat().st_size for path in directory.glob("*.npy"))
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    workers = [
        context.Process(target=weight_bytes, args=(ready, directory, end), daemon=True) for _, end in pipes
    ]
    for worker in workers:
        worker.start()
    sizes = [receive.recv() for receive, _ in pipes if receive.poll(60)]
    for worker in workers:
        worker.join(30)
    assert len(sizes) == 2
    for resident, proportional in sizes:
        assert resident > 0.8 * size  # of the embedding, only the rows looked up
        assert proportional < 0.55 * size
