"""How a simulated request comes in: tag → fits → count → admit → due; the functions are the gateway's."""

from collections.abc import Callable

from orchestrator.core.admission import admit, fits_context
from orchestrator.core.tagger import tag
from orchestrator.core.types import MediaShape, Queued, Reason, Rejected, StageLoad, StageTag
from orchestrator.core.waiting import due_s, isolated_by_rates_s
from orchestrator.simulator.content import Content
from orchestrator.simulator.endings import Endings
from orchestrator.simulator.hop import Request
from orchestrator.simulator.queues import Reasons
from orchestrator.simulator.terms import Terms
from orchestrator.totals import ServiceTotals
from stages.types import Modality, Stage

SERVED = frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO})


class Intake:
    """The way into one service.

    Args:
        terms: What the service is told.
        load: A stage's load, as the gateway sees it.
        totals: Counts what is offered.
        endings: Hears of what is refused.
        reasons: Of admission, under stage None, with counts.
    """

    def __init__(
        self,
        terms: Terms,
        load: Callable[[Stage], StageLoad],
        totals: ServiceTotals,
        endings: Endings,
        reasons: Reasons,
    ) -> None:
        self._profile = terms.profile
        self._promises = terms.promises
        self._speeds = terms.speeds
        self._servable = terms.servable
        self._image = MediaShape(modality=Modality.IMAGE, tokens=terms.profile.image_tokens)
        self._load = load
        self._totals = totals
        self._endings = endings
        self._reasons = reasons

    def take(
        self,
        index: int,
        images: int,
        text_tokens: int,
        output_tokens: int,
        content: Content,
        sent_s: float,
        now_s: float,
    ) -> tuple[Request, bool] | None:
        """Return the request and whether its images are held back; None if it was refused.

        Args:
            index: Its row in the workload and in the outcomes.
            images: Of the profile's size.
            text_tokens: Prompt tokens without images.
            output_tokens: Tokens that its completion will turn out to have; ≥ 1.
            content: What of it may have been seen before.
            sent_s: When its client sent it.
            now_s: When it arrives.
        """
        tagged = tag(
            text_tokens, (self._image,) * images, kappa=self._profile.kappa, max_tokens=output_tokens
        )
        if mistake := self._mistake(index, tagged):
            self._reasons[None, mistake] += 1
            self._endings.turned_away(index)
            return None
        self._totals.offered(tagged, now_s)
        slack_s = self._promises.deadline_s
        loads = {stage: self._load(stage) for stage in tagged.stages}
        admission = admit(tagged, loads, self._promises.bounds, SERVED, slack_s)
        self._reasons[None, admission.reason] += 1
        if isinstance(admission, Rejected):
            self._endings.refused(index)
            return None
        due_at_s = due_s(now_s, self._alone_s(tagged), self._promises.waiting)
        request = Request(index, tagged, output_tokens, sent_s, due_at_s, now_s + slack_s, content)
        return request, isinstance(admission, Queued)

    def _mistake(self, index: int, tagged: StageTag) -> Reason | None:
        """Return why a request can never be served: its client's mistake, and nothing to scale for."""
        if not fits_context(tagged.context_tokens, tagged.output_tokens, self._promises.max_context):
            return Reason.CONTEXT_LENGTH_EXCEEDED
        return None if self._servable[index] else Reason.TOO_LARGE

    def _alone_s(self, tagged: StageTag) -> float:
        return isolated_by_rates_s(
            tagged,
            self._speeds.rates,
            images_at_once=self._speeds.images_at_once,
            preprocess_s=self._profile.preprocess_s,
        )
