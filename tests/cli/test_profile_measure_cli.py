"""What `tercet profile measure` refuses before it starts anything, and how answers are read."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.pressure.answers import timed
from cli.pressure.requests import Mix, Shape, bodies
from cli.pressure.sse import Answer
from cli.profile import profile_app
from cli.profile_measure import print_profile
from orchestrator.profiles import profile_path, read_profile
from orchestrator.profiles.measured import measured_profile
from tests.orchestrator.pressed import measured


def refused(*args):
    result = CliRunner().invoke(profile_app, ["measure", *args])
    assert result.exit_code in (1, 2)
    return result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--url", "http://example.org:8080"], "no service on this machine"),
        (["--url", "127.0.0.1:8080"], "no service on this machine"),
        (["--url", "http://127.0.0.1"], "no service on this machine"),
        (["--url", "http://127.0.0.1:99999999"], "is no address"),
        (["--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_a_mistake_is_named(args, message, tmp_path):
    assert message in refused("--output", str(tmp_path / "p.yaml"), *args)


def test_a_service_that_does_not_run_is_named(tmp_path):
    args = ("--output", str(tmp_path / "p.yaml"), "--url", "http://127.0.0.1:1", "--state", str(tmp_path))
    assert "start one with `tercet up`" in refused(*args)


def test_an_output_that_cannot_be_written_is_found_out_first(tmp_path):
    assert "cannot write" in refused("--output", str(tmp_path / "none" / "p.yaml"))


def test_the_table_has_a_line_for_each_figure(capsys):
    keys = measured_profile(read_profile(profile_path("tiny")), measured(0.9, 1.0))
    print_profile(keys, Path("p.yaml"))
    lines = capsys.readouterr().out.splitlines()
    (hop,) = [line.split() for line in lines if line.split()[:1] == ["hop"]]
    assert (hop[3], hop[5]) == ("0.45", "0.5")
    assert any("decode replicas per prefill, batch 8" in line for line in lines)
    assert "written: p.yaml" in lines[-1]


EVENT = b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n'


def test_an_event_counts_when_its_end_was_read():
    answer = Answer(reads=[(1.0, EVENT + EVENT[:20]), (2.0, EVENT[20:]), (3.0, USAGE)])
    found = timed(0.5, answer)
    assert (found.ttft_s, found.events, found.prompt_tokens) == (0.5, 2, 9)
    assert found.tpot_s == pytest.approx(0.5)


def test_a_token_without_text_came_with_the_first_read():
    assert timed(0.0, Answer(reads=[(1.5, USAGE)])).first_s == 1.5


def test_an_answer_that_breaks_off_is_an_error():
    with pytest.raises(ValueError, match="breaks off"):
        timed(0.0, Answer(reads=[(1.0, EVENT)]))


def test_no_two_requests_are_alike_and_equal_seeds_give_equal_ones():
    shapes = [Shape(images=1, words=8, output_tokens=4)] * 5
    first = bodies("tiny", shapes, 1, 16)
    assert len(set(first)) == 5
    assert first == bodies("tiny", shapes, 1, 16)
    assert not set(first) & set(bodies("tiny", shapes, 2, 16))


def test_a_mix_draws_within_its_bounds():
    import random

    rng, mix = random.Random(0), Mix(image_shares=(0.0, 1.0), words=(2, 3), output_tokens=(5, 5))
    drawn = [mix.draw(rng) for _ in range(50)]
    assert {(shape.images, shape.output_tokens) for shape in drawn} == {(1, 5)}
    assert {shape.words for shape in drawn} == {2, 3}
