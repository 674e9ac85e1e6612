"""What a controller would see of a running system, from outside of it."""

import asyncio

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.core.observe import Observed, observe
from orchestrator.core.observed import ServiceSample
from orchestrator.ports import Snapshot
from orchestrator.published import service_view
from stages.types import Stage
from tests.system.harness import System, digit_question, until
from tests.system.kit import metrics


class Controller:
    """Looks at a system through Redis alone."""

    def __init__(self, system: System) -> None:
        self._url = system.supervisor()["redis_url"]
        self._state: dict[str, Observed] = {}
        self._now_s = 0.0

    def look(self) -> ServiceSample:
        view = service_view(asyncio.run(self._snapshot()), "tiny")
        assert view.complete
        self._now_s += 1_000.0  # no bound on what can have been busy since
        snapshot, state = observe({"tiny": view}, (), (), self._state, self._now_s)
        self._state = dict(state)
        sample = snapshot.services["tiny"]
        assert sample
        return sample

    async def _snapshot(self) -> Snapshot:
        client = connect(self._url)
        try:
            return await RedisLedger(client).snapshot()
        finally:
            await client.aclose()


def test_a_controller_sees_what_was_asked_for_and_done(system: System) -> None:
    """The same image twice: offered twice, encoded at most once, and every stage was busy for a while."""
    controller = Controller(system)

    def settled() -> ServiceSample | None:
        """Reports are half a second old: wait until all that earlier tests asked for is in them."""
        slo, sample = metrics(system), controller.look()
        names = [f"tercet:slo_{name}_requests_total" for name in ("offered", "judged")]
        return sample if [slo[name][""] for name in names] == [sample.requests, sample.judged] else None

    before = until("the counts of earlier requests", settled)
    for _ in range(2):
        assert system.post(digit_question(3, max_tokens=4)).status_code == 200

    def told() -> ServiceSample | None:
        sample = controller.look()
        busy = all(sample.stages[s].busy_s > before.stages[s].busy_s for s in (Stage.PREFILL, Stage.DECODE))
        return sample if busy and sample.finished == before.finished + 2 else None

    after = until("the counts of two requests", told)
    encoded = after.stages[Stage.ENCODE].done_units - before.stages[Stage.ENCODE].done_units
    hits = after.image_hit_tokens - before.image_hit_tokens
    images = after.image_tokens - before.image_tokens
    assert after.requests - before.requests == 2
    assert hits + encoded == images > 0
    assert hits >= images / 2
    assert after.attained <= after.judged
