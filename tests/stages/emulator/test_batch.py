"""Which requests a step works on."""

import asyncio

from stages.emulator.batch import Batch, Step
from stages.emulator.blocks import BlockPool
from stages.emulator.chat import Work
from stages.emulator.config import EngineTiming
from stages.emulator.sequence import Phase, Sequence


class Bench:
    """A batch whose prompts are prefilled and decoded by hand."""

    def __init__(self, blocks=100, max_seqs=8, chunk_tokens=32):
        self.pool = BlockPool(blocks, 16)
        self.batch = Batch(self.pool, max_seqs, chunk_tokens, self._admitted)

    def _admitted(self, sequence):
        self.batch.begin(sequence, Phase.PREFILLING)

    def add(self, prompt_tokens, max_tokens=1000):
        sequence = Sequence("r", Work(prompt=[300] * prompt_tokens, media=(), max_tokens=max_tokens), 0)
        self.batch.add(sequence)
        return sequence

    def step(self):
        step = self.batch.plan()
        for sequence, tokens in step.chunk if step else ():
            sequence.computed += tokens
            if sequence.computed == sequence.length:
                self.batch.begin(sequence, Phase.DECODING)
        for sequence in step.decoding if step else ():
            sequence.speak()
        return step


def on_loop(test):
    async def run():
        test()

    asyncio.run(run())


def test_prompts_are_computed_in_chunks_first_come_first_served():
    def test():
        bench = Bench(chunk_tokens=32)
        first, second = bench.add(40), bench.add(30)
        assert bench.step().chunk == [(first, 32)]
        assert bench.step().chunk == [(first, 8), (second, 24)]
        step = bench.step()
        assert step.chunk == [(second, 6)] and step.decoding == [first]

    on_loop(test)


def test_requests_wait_for_room_in_the_kv_cache():
    def test():
        bench = Bench(blocks=4)
        first, second = bench.add(60), bench.add(20)
        bench.step()
        assert list(bench.batch.waiting) == [second] and bench.pool.used == 4
        bench.batch.remove(first)
        bench.pool.release(first.blocks)
        assert bench.step().chunk == [(second, 20)]

    on_loop(test)


def test_requests_wait_for_a_seat():
    def test():
        bench = Bench(max_seqs=1)
        bench.add(10)
        second = bench.add(10)
        bench.step()
        assert list(bench.batch.waiting) == [second]

    on_loop(test)


def test_when_blocks_run_out_the_youngest_starts_over():
    def test():
        bench = Bench(blocks=4)
        first, second = bench.add(30), bench.add(30)
        while not bench.batch.preemptions:
            bench.step()
        assert second.phase is Phase.WAITING and not second.blocks and second.tokens
        assert len(first.blocks) == 3 and list(bench.batch.waiting) == [second]

    on_loop(test)


def test_nothing_to_do_is_no_step():
    assert Bench().batch.plan() is None


def test_a_step_reads_the_weights_once():
    def test():
        timing = EngineTiming(
            image_s=5.0,
            prefill_s=lambda tokens: 1.0 + tokens,
            decode_s=lambda sequences, context: 1.0 + 0.5 * sequences + 0.01 * context,
        )
        bench = Bench()
        one, two = bench.add(10), bench.add(10)
        assert Step(one).seconds(timing) == 5.0
        assert Step(chunk=[(one, 4), (two, 2)]).seconds(timing) == 7.0
        assert Step(decoding=[one, two]).seconds(timing) == 2.2
        assert abs(Step(chunk=[(one, 4)], decoding=[two]).seconds(timing) - 5.6) < 1e-9

    on_loop(test)
