from bench.burst import Ask
from bench.played import Played
from bench.routing import _figures, _Seen
from bench.routing_report import table
from cli.pressure.answers import Timed


def seen(met: int) -> _Seen:
    """Return what was seen of a router that was in time for so many of four requests, in one round."""
    asks = [Ask(at_s=float(n + 1), images=n % 2, ttft_s=2.0, body=b"") for n in range(4)]
    first_s = [1.0 if n < met else 9.0 for n in range(4)]
    answers = [
        Timed(sent_s=0.0, first_s=at_s, last_s=at_s, events=1, prompt_tokens=1, output_tokens=1)
        for at_s in first_s
    ]
    return _Seen(played=[Played(asks=asks, answers=answers)], cores=[0.1], late=[0.0])


def test_the_highest_goodput_comes_first_and_others_are_set_against_tercet():
    """A layout where Tercet is alone has no ratio."""
    figures = _figures({"whole.tercet": seen(4), "whole.vllm-router.random": seen(2), "epd.tercet": seen(3)})
    told = table(figures).split("\n\n")
    assert [line.split("|")[1].strip() for line in told[1].splitlines()] == [
        "whole",
        "---",
        "tercet",
        "vllm-router, random",
    ]
    assert "0.50 [0.50 … 0.50]" in told[1]
    assert len(told[0].splitlines()) == 3
    assert {figure.met for figure in figures if figure.goal} == {True}
