"""The gateway's view of the replicas between two snapshots."""

from dataclasses import replace

from orchestrator.core.types import Replica
from orchestrator.ports import DispatchOrder, RegisteredReplica, Snapshot
from orchestrator.registry import Registry
from stages.types import PrefillJob, Prompt, Sampling, Stage


def replica(stage: Stage, number: int = 0, **changes: object) -> Replica:
    plain = Replica(
        replica_id=f"{stage}-{number}.1",
        stage=stage,
        model="tiny",
        slots=2,
        total_kv_bytes=100,
        free_kv_bytes=100,
        rate_tokens_per_s=10.0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def dispatched(replica_id: str, tokens: int, kv_bytes: int) -> DispatchOrder:
    job = PrefillJob(
        request_id="r",
        hop="prefill",
        attempt=1,
        reply_to="me",
        model="tiny",
        deadline_unix_s=0.0,
        prompt=Prompt(token_ids=()),
        embeddings=(),
        sampling=Sampling(max_tokens=1),
    )
    return DispatchOrder(
        replica_id=replica_id,
        job=job,
        gateway="me",
        tokens=tokens,
        kv_bytes=kv_bytes,
        alone=False,
        ttl_s=60.0,
    )


def registry(*replicas: Replica, waiting: dict[str, dict[str, int]] | None = None) -> Registry:
    view = Registry("me")
    entries = tuple(RegisteredReplica(replica=one, facts={}, load={}) for one in replicas)
    gateways = {id_: {"waiting_tokens": tokens} for id_, tokens in (waiting or {}).items()}
    view.refresh(Snapshot(replicas=entries, gateways=gateways))
    return view


def test_what_is_taken_and_given_back_shows_at_once() -> None:
    view, order = registry(replica(Stage.PREFILL)), dispatched("prefill-0.1", 7, 30)
    view.took(order)
    (busy,) = view.replicas(Stage.PREFILL)
    assert (busy.in_flight, busy.pending_tokens, busy.free_kv_bytes) == (1, 7, 70)
    view.gave_back(order)
    assert view.replicas(Stage.PREFILL) == [replica(Stage.PREFILL)]


def test_what_is_given_back_after_a_snapshot_counted_it_does_not_go_below_nothing() -> None:
    view = registry(replica(Stage.PREFILL))
    view.gave_back(dispatched("prefill-0.1", 7, 30))
    assert view.replicas(Stage.PREFILL) == [replica(Stage.PREFILL)]


def test_backlog_counts_every_gateways_waiting_work_once() -> None:
    view = registry(
        replica(Stage.PREFILL, pending_tokens=5),
        waiting={"me": {"prefill": 100}, "other": {"prefill": 40}, "third": {"prefill": 2}},
    )
    assert view.load(Stage.PREFILL, waiting_tokens=3).backlog_tokens == 5 + 40 + 2 + 3


def test_rates_add_up_and_draining_replicas_do_not_count() -> None:
    draining = replica(Stage.PREFILL, 2, draining=True)
    load = registry(replica(Stage.PREFILL), replica(Stage.PREFILL, 1), draining).load(Stage.PREFILL, 0)
    assert (load.live_replicas, load.rate_tokens_per_s) == (2, 20.0)


def test_running_decodes_are_ahead_of_nobody_while_a_slot_is_free() -> None:
    """A new one joins the batch. When all slots are taken, it waits for them."""
    part = replica(Stage.DECODE, in_flight=1, pending_tokens=500)
    assert registry(part).load(Stage.DECODE, 0).backlog_tokens == 0
    full = replica(Stage.DECODE, in_flight=2, pending_tokens=500)
    assert registry(full).load(Stage.DECODE, 0).backlog_tokens == 500


def test_a_stage_that_restarted_is_taken_to_be_as_fast_as_it_was() -> None:
    view = registry(replica(Stage.PREFILL))
    new = RegisteredReplica(replica=replica(Stage.PREFILL, rate_tokens_per_s=0.0), facts={}, load={})
    view.refresh(Snapshot(replicas=(new,)))
    assert view.load(Stage.PREFILL, 0).rate_tokens_per_s == 10.0
