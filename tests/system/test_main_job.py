"""The main job, as clients see it: images through three processes, by the official client."""

import itertools
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from stages.tiny.data import heldout_digit
from stages.types import Stage
from tests.system.harness import System, data_url, digit_png, digit_question, until
from tests.system.kit import ask, metrics, status

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digit_url(index: int) -> str:
    return data_url(digit_png(index)[0])


def gif_of_digits(*indices: int) -> str:
    frames = [Image.fromarray(heldout_digit(index, 96)[0]) for index in indices]
    out = BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=40)
    return data_url(out.getvalue()).replace("image/png", "image/gif", 1)


def test_digits_are_read_and_streams_say_the_same(client: openai.OpenAI) -> None:
    """Of ten held-out digits at least nine are right, and a stream's pieces join to the same text."""
    right = 0
    for index in range(10):
        whole = ask(client, "what digit is shown ?", digit_url(index)).choices[0]
        pieces = list(ask(client, "what digit is shown ?", digit_url(index), stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
        assert text == whole.message.content
        assert [c.choices[0].finish_reason for c in pieces if c.choices[0].finish_reason] == ["stop"]
        assert (whole.finish_reason, whole.message.role) == ("stop", "assistant")
        right += WORDS[digit_png(index)[1]] in text.split()
    assert right >= 9


def test_three_processes_did_the_work(system: System, client: openai.OpenAI) -> None:
    """`tercet status --json` names one replica a stage, each a process of its own that did some work."""
    ask(client, "what digit is shown ?", digit_url(11))
    until("heartbeats tell of work", lambda: all(done_tokens(system)))
    report = status(system)
    rows = report["replicas"]
    assert [row["stage"] for row in rows] == ["encode", "prefill", "decode"]
    assert all(row["state"] == "running" and row["queue_depth"] == 0 for row in rows)
    assert all(row["done_tokens"] > 0 for row in rows)
    pids = {row["pid"] for row in rows} | {process["pid"] for process in report["processes"]}
    assert len(pids) == 5, "three workers, a gateway and redis-server"
    for row in rows:
        assert b"workers" in Path(f"/proc/{row['pid']}/cmdline").read_bytes().split(b"\0")


def done_tokens(system: System) -> list[int]:
    boots = [process["boot_id"] for stage in Stage for process in system.processes(stage)]
    loads = [system.redis().hget(f"tercet:replica:{boot}", "load") for boot in boots]
    return [json.loads(str(load))["done_tokens"] for load in loads]


def test_a_text_only_request_skips_encode(system: System, client: openai.OpenAI) -> None:
    before = arrivals(system)
    answer = ask(client, "what digit is shown ?")
    assert answer.choices[0].finish_reason in ("stop", "length")
    after = arrivals(system)
    assert after["encode"] == before["encode"]
    assert (after["prefill"], after["decode"]) == (before["prefill"] + 1, before["decode"] + 1)


def arrivals(system: System) -> dict[str, float]:
    found = metrics(system)["tercet:stage_arrivals_total"]
    return {stage: found.get(f'stage="{stage}"', 0.0) for stage in ("encode", "prefill", "decode")}


def test_several_images_make_as_many_encode_hops_and_longer_prompts(
    system: System, client: openai.OpenAI
) -> None:
    before = arrivals(system)["encode"]
    urls = [digit_url(index) for index in range(3)]
    prompts = [ask(client, "what digit is shown ?", *urls[:n]).usage.prompt_tokens for n in (1, 2, 3)]
    assert [b - a for a, b in itertools.pairwise(prompts)] == [9, 9]
    assert arrivals(system)["encode"] == before + 6


@pytest.mark.parametrize("kind", ["image_url", "video_url"])
def test_an_animation_is_read_as_sampled_frames(client: openai.OpenAI, kind: str) -> None:
    """Nine tokens a frame, of at most eight frames."""
    for frames, sampled in ((3, 3), (20, 8)):
        url = gif_of_digits(*range(frames))
        content: Any = [
            {"type": "text", "text": "what digit is shown ?"},
            {"type": kind, kind: {"url": url}},
        ]
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}])
        assert answer.usage
        assert answer.usage.prompt_tokens == 9 * sampled + len(["what", "digit", "is", "shown", "?"]) + 1


def test_usage_comes_last_when_asked_for(client: openai.OpenAI) -> None:
    whole = ask(client, "what digit is shown ?", digit_url(1))
    chunks = list(
        ask(
            client,
            "what digit is shown ?",
            digit_url(1),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_stop_strings_end_the_text_before_them(client: openai.OpenAI) -> None:
    full = ask(client, "what digit is shown ?", digit_url(1)).choices[0].message.content
    word = full.split()[2]
    for options in ({}, {"stream": True}):
        answer = ask(client, "what digit is shown ?", digit_url(1), stop=[word], **options)
        if options:
            chunks = list(answer)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (text, finish) == (full.split(word)[0], "stop")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_completion_ends_at_its_limit(client: openai.OpenAI, name: str) -> None:
    answer = ask(client, "what digit is shown ?", digit_url(1), **{name: 2})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2
    assert len(answer.choices[0].message.content.split()) == 2


def test_a_seed_fixes_what_temperature_draws(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str:
        options = {"temperature": 2.0, "top_p": 0.99, "max_tokens": 24, "seed": seed}
        return str(ask(client, "describe the image .", digit_url(2), **options).choices[0].message.content)

    first = [drawn(seed) for seed in range(5)]
    assert first == [drawn(seed) for seed in range(5)]
    assert len(set(first)) > 1


def test_a_repeated_image_is_not_encoded_again(system: System, client: openai.OpenAI) -> None:
    """Nine tokens are looked up a time; all but the first time they are found."""
    url = data_url(digit_png(23, 80)[0])
    before = hits(system)
    for _ in range(20):
        ask(client, "what digit is shown ?", url)
    until("hits counted", lambda: hits(system) >= before + 19 * 9)


def hits(system: System) -> float:
    return sum(metrics(system)["tercet:mm_cache_hits_total"].values())


def test_a_conversation_with_images_in_several_turns(client: openai.OpenAI) -> None:
    """Earlier turns are accepted; tiny answers the last one."""
    question: Any = digit_question(3)["messages"][0]
    messages: Any = [
        {"role": "system", "content": "Be brief, please!"},
        question,
        {"role": "assistant", "content": "whatever was said", "refusal": None},
        {"role": "user", "content": "what digit is shown ?"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages)
    assert answer.choices[0].message.content


def test_models_lists_what_is_served(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [(model.id, model.object, model.owned_by) for model in models] == [("tiny", "model", "tercet")]
