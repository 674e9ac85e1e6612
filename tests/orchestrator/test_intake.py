"""From a parsed request to work: what is reserved, what is tagged, and what is refused on the way."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.api import parse_chat
from orchestrator.api_errors import ApiError
from orchestrator.core.kv import KvSizes
from orchestrator.core.types import Reason, StageLoad
from orchestrator.hops import Request
from orchestrator.intake import Intake
from orchestrator.kv_rules import KvRules
from orchestrator.pipeline import Work
from orchestrator.policy import Policy, load_policy
from stages.memory_blobs import MemoryBlobs
from stages.tiny.front import TinyFront
from stages.types import Stage

POLICY = load_policy(Path(__file__).parents[2] / "policies" / "tiny.yaml")
IDLE = StageLoad(live_replicas=1, backlog_tokens=0, rate_tokens_per_s=100.0)


@dataclass(frozen=True)
class Loads:
    """What admission asks of the fleet."""

    prefill: StageLoad = IDLE

    def loads(self) -> Mapping[Stage, StageLoad]:
        return dict.fromkeys(Stage, IDLE) | {Stage.PREFILL: self.prefill}


@dataclass
class Host:
    """A host of images that come in pieces of 1,000 bytes."""

    image: bytes

    async def fetch(
        self, url: str, *, max_bytes: int, timeout_s: float, on_bytes: Callable[[int], None]
    ) -> bytes:
        for at in range(0, len(self.image), 1_000):
            on_bytes(len(self.image[at : at + 1_000]))
            await asyncio.sleep(0)
        return self.image


def png(size_px: int = 40) -> bytes:
    out = BytesIO()
    Image.effect_noise((size_px, size_px), 80).convert("RGB").save(out, "PNG")
    return out.getvalue()


def chat(text: str = "what digit is shown ?", images: int = 0, **fields: Any) -> Any:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": f"http://x/{n}.png"}} for n in range(images)]
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], **fields}
    return parse_chat(json.dumps(body).encode(), known_models={"tiny"}, default_seed=1)


def request(patience_s: float = 30.0, due_in_s: float | None = 1.0) -> Request:
    now_s = time.monotonic()
    return Request(
        request_id="r",
        reply_to="g",
        model="tiny",
        arrival_s=now_s,
        due_s=None if due_in_s is None else now_s + due_in_s,
        deadline_s=now_s + patience_s,
        deadline_unix_s=time.time() + patience_s,
    )


def take(
    asked: Any,
    *,
    fleet: Loads = Loads(),
    policy: Policy = POLICY,
    memory_bytes: int = 10**8,
    patience_s: float = 30.0,
    asking: Request | None = None,
    on_admission: Callable[[Reason], None] = lambda reason: None,
) -> Work:
    async def run() -> Work:
        intake = Intake(
            fleet,  # type: ignore[arg-type]
            TinyFront(),
            MemoryBlobs(),
            Host(png()),
            lambda: policy,
            on_offer=lambda tagged, asked: None,
            on_admission=on_admission,
            kv_rules=lambda: KvRules(sizes=KvSizes(token_bytes=10), decode_level=1),
            media_memory_bytes=memory_bytes,
        )
        async with intake.take(asked, asking or request(patience_s)) as work:
            return work

    return asyncio.run(run())


def refusal(*given: Any, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as failure:
        take(*given, **options)
    return failure.value


def test_text_alone_has_no_encode_work_and_no_items() -> None:
    work = take(chat())
    assert work.tag.stages == (Stage.PREFILL, Stage.DECODE)
    assert (work.items, work.tag.encode_tokens, work.tag.context_tokens) == ([], 0, 6)
    assert (work.kv, work.decode_level) == (KvSizes(token_bytes=10), 1)


def test_images_are_tagged_and_stored_before_any_stage_sees_them() -> None:
    work = take(chat(images=3))
    assert work.tag.stages == tuple(Stage)
    assert (work.tag.item_tokens, work.tag.context_tokens) == ((9, 9, 9), 33)
    assert [item.tokens for item in work.items] == [9, 9, 9]
    assert len({item.blob.uri for item in work.items}) == 3
    assert work.restore(1).sha256 == work.items[1].content_hash


def test_a_request_without_a_deadline_of_its_own_is_due_by_the_policy() -> None:
    asking = request(due_in_s=None)
    take(chat(), asking=asking)
    assert asking.due_s == asking.arrival_s + POLICY.slo.ttft_s


def test_a_large_request_is_due_as_late_as_its_size_asks_for() -> None:
    """So slow a prefill that the isolated time alone exceeds the policy's target."""
    asking = request(due_in_s=None)
    slow = Loads(StageLoad(live_replicas=1, backlog_tokens=0, rate_tokens_per_s=1.0))
    take(chat(images=1), asking=asking, fleet=slow)
    assert asking.due_s is not None
    assert asking.due_s > asking.arrival_s + POLICY.slo.stretch * 9.0


def test_more_replicas_do_not_make_a_target_tighter() -> None:
    """Ten replicas of 1 token/s: the target is what one of them takes alone."""
    due = []
    for count in (1, 10):
        asking = request(due_in_s=None)
        fleet = Loads(StageLoad(live_replicas=count, backlog_tokens=0, rate_tokens_per_s=float(count)))
        take(chat(images=1), asking=asking, fleet=fleet)
        assert asking.due_s is not None
        due.append(asking.due_s - asking.arrival_s)
    assert due[0] == pytest.approx(due[1])


def test_fetched_images_count_against_the_memory_for_media_as_they_come() -> None:
    assert len(png()) > 3_000
    refused = refusal(chat(images=1), memory_bytes=2_500)
    assert (refused.status, "retry-after" in refused.headers) == (503, True)


def test_a_completion_fits_into_what_the_prompt_leaves() -> None:
    policy = replace(POLICY, model=replace(POLICY.model, max_context=16))
    assert take(chat(), policy=policy).sampling.max_tokens == 10
    assert take(chat(max_tokens=10), policy=policy).sampling.max_tokens == 10
    assert refusal(chat(max_tokens=11), policy=policy).code == "context_length_exceeded"
    assert refusal(chat("what " * 16), policy=policy).code == "context_length_exceeded"


def test_a_request_beyond_the_context_is_counted_with_its_reason() -> None:
    reasons: list[Reason] = []
    refusal(chat(max_tokens=10_000), on_admission=reasons.append)
    assert reasons == [Reason.CONTEXT_LENGTH_EXCEEDED]


def test_a_backlog_beyond_the_bound_is_refused_with_its_excess() -> None:
    """The policy allows 10 s; 30 s wait."""
    full = Loads(StageLoad(live_replicas=1, backlog_tokens=3_000, rate_tokens_per_s=100.0))
    refused = refusal(chat(), fleet=full)
    assert (refused.status, refused.headers["retry-after"]) == (429, "20")


def test_a_stage_without_replicas_is_a_503() -> None:
    gone = Loads(StageLoad(live_replicas=0, backlog_tokens=0, rate_tokens_per_s=0.0))
    assert (refusal(chat(), fleet=gone).status, refusal(chat(), fleet=gone).code) == (503, "no_replica")


def test_a_deadline_that_even_an_idle_system_misses_is_refused_at_once() -> None:
    """Six prompt tokens take 60 ms at 100 a second."""
    assert refusal(chat(), patience_s=0.03).status == 504
    assert take(chat(), patience_s=5.0)
