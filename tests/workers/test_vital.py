"""A process does not outlive a thread that it needs."""

import pytest

from workers import vital


class Exited(BaseException):
    """The process has ended, with this code."""


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr("workers.vital.os._exit", leave)


def fail() -> None:
    raise KeyError("stage")


def test_a_thread_that_fails_ends_the_process() -> None:
    with pytest.raises(Exited) as ended:
        vital.run(fail, lambda: False)
    assert ended.value.args == (vital.EXIT_THREAD_DIED,)


def test_what_a_thread_misses_while_a_process_closes_is_nobodys_trouble() -> None:
    vital.run(fail, lambda: True)
