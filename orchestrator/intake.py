"""From a parsed request to dispatchable work: fetch → tag → admit → store the media."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from orchestrator.api import ChatRequest
from orchestrator.api_errors import ApiError, invalid_request, rate_limited, timed_out, unavailable
from orchestrator.api_served import stored_body
from orchestrator.byte_budget import ByteBudget
from orchestrator.core.admission import admit, fits_context
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape, Reason, Rejected, StageLoad, StageTag
from orchestrator.core.waiting import due_s, isolated_by_rates_s
from orchestrator.fleet import Fleet
from orchestrator.hops import FORGET_AFTER_S, Request
from orchestrator.kv_rules import KvRules
from orchestrator.media import (
    Fetcher,
    Media,
    MediaLimits,
    check_modalities,
    reserve_bytes,
    take_in,
)
from orchestrator.pipeline import Work
from orchestrator.policy import Policy
from stages.blobs import BlobStore, inlined
from stages.front import ModelFront, UnknownWord
from stages.types import BlobHandle, MediaItem, Modality, Prompt, Sampling, Stage

_OFF_LOOP_BYTES = 256 * 1024
_INLINE_BYTES = 64 * 1024
"""A chat's body up to this size travels in its jobs."""


class Intake:
    """Turns requests into work.

    Args:
        on_offer: Hears of each request whose work is known, before it is let in or refused.
        on_admission: Hears what became of it.
        kv_rules: Returns how KV caches are handled under the policy in force.
    """

    def __init__(
        self,
        fleet: Fleet,
        front: ModelFront,
        blobs: BlobStore,
        fetcher: Fetcher,
        policy: Callable[[], Policy],
        *,
        on_offer: Callable[[StageTag, Request], None],
        on_admission: Callable[[Reason], None],
        kv_rules: Callable[[], KvRules],
        media_memory_bytes: int = 256_000_000,
    ) -> None:
        self._fleet = fleet
        self._front = front
        self._served = front.modalities | {Modality.TEXT}
        self._blobs = blobs
        self._fetcher = fetcher
        self._policy = policy
        self._on_offer = on_offer
        self._on_admission = on_admission
        self._kv_rules = kv_rules
        self._budget = ByteBudget(media_memory_bytes)

    def room(self, size_bytes: int) -> AbstractAsyncContextManager[object]:
        """Hold room in the gateway's memory for a body, as for media.

        Raises:
            ApiError: 503: there was no room in time.
        """
        return self._budget.hold(size_bytes)

    @asynccontextmanager
    async def take(self, chat: ChatRequest, request: Request) -> AsyncIterator[Work]:
        """Hold a request's media in memory and yield its work.

        Raises:
            ApiError: Refused: by its content (400), by load (429, 503) or by its deadline (504).
        """
        check_modalities(chat.media, self._served)
        if not chat.media:
            yield await self._work(chat, request, ())
            return
        limits = media_limits(self._policy())
        async with self._budget.hold(reserve_bytes(chat.media)) as grow:
            yield await self._work(chat, request, await take_in(chat.media, limits, self._fetcher, grow))

    async def _work(self, chat: ChatRequest, request: Request, media: Sequence[Media]) -> Work:
        front, policy, kv_rules = self._front, self._policy(), self._kv_rules()
        tokens = [front.media_tokens(m.modality, m.width_px, m.height_px, m.frames) for m in media]
        prompt = self._prompt(chat, media, tokens)
        sampling = self._sampling(chat, prompt)
        tagged = tag(
            len(prompt.token_ids) - sum(tokens),
            [_shape(item, count) for item, count in zip(media, tokens, strict=True)],
            kappa=policy.model.kappa,
            max_tokens=sampling.max_tokens,
            split=policy.split.of_requests,
        )
        self._on_offer(tagged, request)
        self._admit(tagged, request)
        items = [await self._store(item, count, request) for item, count in zip(media, tokens, strict=True)]
        return Work(
            tag=tagged,
            hops=policy.hops(tagged.stages),
            prompt=prompt,
            chat=self._chat(chat, media, request),
            items=items,
            sampling=sampling,
            restore=lambda index: self._put(media[index].data, request),
            kv=kv_rules.sizes,
            decode_level=kv_rules.decode_level,
            hedge_s={stage: policy.stages[stage].hedge_s for stage in Stage},
        )

    def _prompt(self, chat: ChatRequest, media: Sequence[Media], tokens: Sequence[int]) -> Prompt:
        try:
            return self._front.prompt(chat.turns, [item.sha256 for item in media], tokens)
        except UnknownWord as error:
            raise invalid_request(str(error), param="messages", code="unknown_word") from None
        except ValueError as error:
            raise invalid_request(str(error), param="messages", code="invalid_prompt") from None

    def _chat(self, chat: ChatRequest, media: Sequence[Media], request: Request) -> BlobHandle | None:
        """Return the body for engines that read chats themselves."""
        if chat.body is None:
            return None
        body = stored_body(chat.body, [item.sha256 for item in media])
        return self._put(body, request) if len(body) > _INLINE_BYTES else inlined(body, _ttl_s(request))

    def _sampling(self, chat: ChatRequest, prompt: Prompt) -> Sampling:
        """Return the sampling, with a completion limit that fits the context."""
        context = min(self._policy().model.max_context or self._front.max_context, self._front.max_context)
        room = context - len(prompt.token_ids)
        wanted = chat.max_tokens or min(self._front.default_max_tokens, max(room, 1))
        fits = fits_context(len(prompt.token_ids), wanted, context)
        if not fits and chat.body is None:  # of other prompts the engine alone knows the length
            self._on_admission(Reason.CONTEXT_LENGTH_EXCEEDED)
            raise invalid_request(
                f"the prompt has {len(prompt.token_ids)} tokens and the completion may have {wanted}: "
                f"together more than the context of {context}; shorten the messages or lower max_tokens",
                param="messages",
                code="context_length_exceeded",
            )
        return chat.sampling(wanted)

    def _admit(self, tagged: StageTag, request: Request) -> None:
        policy, loads = self._policy(), self._fleet.loads()
        slack_s = request.deadline_s - time.monotonic()
        admission = admit(tagged, loads, policy.admission_bounds, self._served, slack_s)
        self._on_admission(admission.reason)
        if isinstance(admission, Rejected):
            raise _refusal(admission)
        if request.due_s is None:
            at_once = policy.stages[Stage.PREFILL].tp  # as many encoders as it has accelerators
            alone_s = isolated_by_rates_s(tagged, self._rates(tagged, loads), images_at_once=at_once)
            request.due_s = due_s(request.arrival_s, alone_s, policy.waiting_params)

    def _rates(self, tagged: StageTag, loads: Mapping[Stage, StageLoad]) -> Mapping[Stage, float]:
        """Return tokens per second of one replica of each stage; encode's include preparing images."""
        rates = {s: load.rate_tokens_per_s / max(1, load.live_replicas) for s, load in loads.items()}
        if Stage.PREFILL in tagged.stages:
            return rates
        return rates | {Stage.PREFILL: self._fleet.registry.unsplit.rate_tokens_per_s}

    async def _store(self, item: Media, tokens: int, request: Request) -> MediaItem:
        if len(item.data) > _OFF_LOOP_BYTES:
            blob = await asyncio.to_thread(self._put, item.data, request)
        else:
            blob = self._put(item.data, request)
        return MediaItem(
            modality=item.modality,
            blob=blob,
            content_hash=item.sha256,
            width_px=item.width_px,
            height_px=item.height_px,
            frames=item.frames,
            tokens=tokens,
        )

    def _put(self, data: bytes, request: Request) -> BlobHandle:
        return self._blobs.put(data, owner=request.request_id, ttl_s=_ttl_s(request))


def _ttl_s(request: Request) -> float:
    """Return how long what a request brings has to be kept."""
    return max(0.0, request.deadline_s - time.monotonic()) + FORGET_AFTER_S


def media_limits(policy: Policy) -> MediaLimits:
    """Return the policy's limits as media intake takes them."""
    limits, fetch = policy.admission.limits, policy.admission.fetch
    return MediaLimits(
        body_bytes=limits.body_bytes,
        items=limits.images,
        total_bytes=limits.media_bytes,
        image_px=limits.image_px,
        frames=limits.frames,
        containers=policy.served,
        fetch_timeout_s=fetch.timeout_s,
    )


def _shape(item: Media, tokens: int) -> MediaShape:
    return MediaShape(modality=item.modality, tokens=tokens)


def _refusal(rejected: Rejected) -> ApiError:
    if rejected.reason is Reason.BACKLOG_FULL:
        message = f"the backlog of {rejected.stage} is full; retry after the time in Retry-After"
        return rate_limited(message, rejected.retry_after_s)
    if rejected.reason is Reason.MODALITY_UNSERVED:
        return invalid_request("no engine reads this modality", param="messages", code="modality_unsupported")
    if rejected.reason is Reason.DEADLINE_EXPIRED:
        return timed_out("the deadline cannot be met, even by an idle system; allow more time")
    message = f"no {rejected.stage} replica is live; see `tercet status`"
    return unavailable(message, rejected.retry_after_s, code="no_replica")
