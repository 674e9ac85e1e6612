"""The loop ends every task exactly once, whatever happens to it."""

import threading
import time

import pytest

from stages.engines import DeadlineExceeded, WorkCancelled
from stages.loop import EngineCrashed, EngineLoop, Task
from stages.types import EngineLoad
from tests.stages.engine_kit import Call, eventually


class CountingCore:
    """Each step takes one unit off each task that is not paused; `gate` holds the step up."""

    def __init__(self):
        self.left = {}
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def admit(self, task):
        self.left[task] = task.tokens

    def drop(self, task):
        del self.left[task]

    def step(self):
        self.gate.wait(10)
        if self.error:
            raise self.error
        batch = [task for task in self.left if not task.paused]
        for task in batch:
            self.left[task] -= 1
            if self.left[task] <= 0:
                del self.left[task]
                task.future.set_result(task.key)
        return bool(batch)

    def load(self):
        return EngineLoad(running_tokens=sum(self.left.values()), batch_size=len(self.left))


@pytest.fixture
def core():
    return CountingCore()


@pytest.fixture
def loop(core):
    loop = EngineLoop(core, "test-loop")
    yield loop
    core.gate.set()
    loop.close()


def started(loop, key="a", tokens=3, deadline_s=60.0):
    task = Task(key=key, tokens=tokens, deadline_unix_s=time.time() + deadline_s)

    def run():
        loop.run(task)
        return task.future.result()

    return Call(run)


FOREVER = 10**9


def test_a_task_ends_with_its_result(loop):
    assert started(loop).result() == "a"
    assert loop.load().steps == 3
    assert loop.load().step_age_s == 0.0


def test_work_that_arrives_during_a_step_is_in_the_load(core, loop):
    core.gate.clear()
    first = started(loop, "a", tokens=1)
    eventually(lambda: loop.load().running_tokens == 1)
    second = started(loop, "b", tokens=7)
    eventually(lambda: loop.load().queued_tokens == 7)
    eventually(lambda: loop.load().step_age_s > 0.01)
    core.gate.set()
    assert (first.result(), second.result()) == ("a", "b")


def test_a_cancelled_task_ends_and_frees_at_the_next_step(core, loop):
    call = started(loop, tokens=FOREVER)
    eventually(lambda: core.left)
    loop.cancel("a")
    with pytest.raises(WorkCancelled):
        call.result()
    assert not core.left


def test_a_cancel_that_overtakes_its_job_is_remembered_once(loop):
    loop.cancel("a")
    with pytest.raises(WorkCancelled):
        started(loop).result()
    assert started(loop).result() == "a"


def test_a_paused_task_waits_and_goes_on(core, loop):
    loop.pause("a", True)
    call = started(loop, tokens=2)
    eventually(lambda: core.left)
    assert started(loop, "b").result() == "b"
    assert call.is_alive()
    loop.pause("a", False)
    assert call.result() == "a"


def test_a_pause_taken_back_early_is_forgotten(loop):
    loop.pause("a", True)
    loop.pause("a", False)
    assert started(loop).result() == "a"


@pytest.mark.parametrize("paused", [False, True])
def test_a_deadline_ends_running_and_paused_work(core, loop, paused):
    loop.pause("a", paused)
    with pytest.raises(DeadlineExceeded):
        started(loop, tokens=FOREVER, deadline_s=0.05).result()
    assert not core.left


def test_work_past_its_deadline_costs_no_step(core, loop):
    with pytest.raises(DeadlineExceeded):
        started(loop, deadline_s=-1).result()
    assert loop.load().steps == 0


def test_a_key_that_is_running_is_not_run_twice(core, loop):
    call = started(loop, tokens=FOREVER)
    eventually(lambda: core.left)
    with pytest.raises(WorkCancelled):
        started(loop).result()
    loop.cancel("a")
    with pytest.raises(WorkCancelled):
        call.result()


def test_a_crash_ends_all_calls_and_stays(core, loop):
    core.gate.clear()
    calls = [started(loop, key, tokens=FOREVER) for key in "abc"]
    core.error = ZeroDivisionError("bad step")
    core.gate.set()
    for call in calls:
        with pytest.raises(EngineCrashed, match="bad step"):
            call.result()
    assert isinstance(loop.failed, ZeroDivisionError)
    with pytest.raises(EngineCrashed):
        started(loop, "d").result()
    assert loop.load().batch_size >= 0


def test_close_cancels_what_is_left_and_refuses_more(core, loop):
    call = started(loop, tokens=FOREVER)
    eventually(lambda: core.left)
    loop.close()
    loop.close()
    with pytest.raises(WorkCancelled):
        call.result()
    with pytest.raises(WorkCancelled):
        started(loop, "b").result()
    assert loop.failed is None
