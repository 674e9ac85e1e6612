"""Routes, headers and events, byte by byte where OpenAI's clients depend on them."""

import json

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.system.harness import System, digit_question, until
from tests.system.kit import log_lines, metrics

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def get(system: System, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, f"{system.url}{path}", trust_env=False, verify=False, timeout=10)


def test_a_stream_is_openais_event_by_event(system: System) -> None:
    body = digit_question(1, stream=True, stream_options={"include_usage": True})
    response = system.post(body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""} or (
        chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    )
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:-1])
    assert (chunks[-2]["choices"][0]["delta"], chunks[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"] > 0) == ([], True)


def test_a_whole_answer_is_openais(system: System) -> None:
    response = system.post(digit_question(1))
    ChatCompletion.model_validate(response.json(), strict=True)
    assert response.json()["id"].startswith("chatcmpl-")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/completions", "/v1/chat/completions/", "/metrics", "/docs"]
)
def test_unknown_routes_are_404s_as_json(system: System, path: str) -> None:
    response = get(system, path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/health", "GET"),
    ],
)
def test_other_methods_are_405s_that_name_the_allowed_one(
    system: System, method: str, path: str, allowed: str
) -> None:
    response = get(system, path, method)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_health_and_ready_tell_of_the_process_and_of_the_stages(system: System) -> None:
    assert get(system, "/health").status_code == 200
    ready = get(system, "/ready")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "live_replicas": {"encode": 1, "prefill": 1, "decode": 1}}


def test_the_clients_request_id_comes_back_and_is_in_every_log_line_about_it(system: System) -> None:
    """In the gateway's and in each worker's, with the trace context."""
    name = "surface-test-0001"
    response = system.post(digit_question(7), headers={"x-request-id": name, "traceparent": TRACE})
    assert response.headers["x-request-id"] == name

    def lines() -> list[dict[str, object]]:
        found = [line for line in log_lines(system) if line.get("x_request_id") == name]
        return found if len(found) >= 4 else []

    found = until("a line in each log", lines)
    assert {str(line.get("replica", "gateway")).partition("-")[0] for line in found} == {
        "gateway",
        "encode",
        "prefill",
        "decode",
    }
    assert all(line["traceparent"] == TRACE for line in found)
    assert len({line["request_id"] for line in found}) == 1
    access = next(line for line in found if line["process"] == "gateway")
    assert (access["status"], access["path"], access["finish"]) == (200, "/v1/chat/completions", "stop")
    assert 0 < access["ttft_s"] <= access["duration_s"]
    assert access["prompt_tokens"] == 15
    hops = {line["hop"]: line["outcome"] for line in found if line["process"] == "worker"}
    assert hops == {"encode.0": "done", "prefill": "done", "decode": "done"}


@pytest.mark.parametrize("given", ["", "x" * 129, "snö", "tab\there"])
def test_an_unfit_request_id_is_replaced(system: System, given: str) -> None:
    response = system.post({}, headers={"x-request-id": given.encode()})
    assert response.headers["x-request-id"] not in ("", given)


def test_refusals_are_logged_with_status_and_code(system: System) -> None:
    system.post({}, headers={"x-request-id": "refused-0001"})
    line = until(
        "the access line",
        lambda: next((e for e in log_lines(system) if e.get("x_request_id") == "refused-0001"), None),
    )
    assert (line["status"], line["error"]) == (400, "missing_required_parameter")


def test_nothing_of_the_question_or_the_answer_is_logged(system: System) -> None:
    """Logs go to more people than prompts may."""
    system.post({"model": "tiny", "messages": [{"role": "user", "content": "describe the sekretword ."}]})
    system.answer(digit_question(2))
    assert "sekretword" not in system.logs()
    assert "the digit is" not in system.logs()


def test_metrics_move_with_the_requests(system: System) -> None:
    """On a port of their own, under the names that dashboards read; the image is one that no cache has."""
    before = metrics(system)
    system.answer(digit_question(301))
    system.post({})
    after = metrics(system)

    def moved(name: str, labels: str = "") -> float:
        return after[name].get(labels, 0.0) - before[name].get(labels, 0.0)

    assert moved("tercet:request_total", 'status="200"') == 1
    assert moved("tercet:request_total", 'status="400"') == 1
    assert moved("tercet:request_success_total", 'finished_reason="stop"') == 1
    assert moved("tercet:admission_rejections_total", 'code="missing_required_parameter"') == 1
    assert moved("tercet:prompt_tokens_total") == 15
    assert moved("tercet:generation_tokens_total") == 5
    for stage in ("encode", "prefill", "decode"):
        label = f'stage="{stage}"'
        assert moved("tercet:stage_arrivals_total", label) == 1
        assert moved("tercet:stage_wait_seconds_count", label) == 1
        assert moved("tercet:stage_work_seconds_count", label) == 1
        assert moved("tercet:stage_work_seconds_sum", label) > 0
        assert moved("tercet:stage_tokens_total", label) == {"encode": 9, "prefill": 15, "decode": 5}[stage]
        assert moved("tercet:route_total", f'reason="only-candidate",{label}') == 1
    assert moved("gen_ai_server_time_to_first_token_seconds_count", 'modality="image"') == 1
    assert moved("gen_ai_server_time_per_output_token_seconds_count", 'modality="image"') == 1
    assert moved("gen_ai_server_request_duration_seconds_count") == 2
    assert after["tercet:num_requests_running"] == {"": 0}
    assert set(after["tercet:num_requests_waiting"].values()) == {0}
    assert len(after["tercet:replica_in_flight"]) == 3
    for name in ("tercet:mm_cache_queries_total", "tercet:prefix_cache_queries_total"):
        assert name in after
    assert "tercet:kv_cache_usage_perc" in after


def test_a_shorter_connection_serves_several_requests(system: System) -> None:
    """Keep-alive, also after a refusal and a 413."""
    with httpx.Client(base_url=system.url, trust_env=False, verify=False, timeout=30) as client:
        for body, status in (
            (b"{", 400),
            (json.dumps(digit_question(1)).encode(), 200),
            (b" " * 17_000_000, 413),
        ):
            response = client.post("/v1/chat/completions", content=body)
            assert response.status_code == status
        assert client.get("/health").status_code == 200
