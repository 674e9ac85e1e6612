from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.router import SCORERS, route
from orchestrator.core.types import Reason, Replica, RouteQuery
from stages.types import Stage

ENCODE = {"pending_tokens": 1.0, "cache_affinity": 2.0}
PREFILL = {"pending_tokens": 1.0, "prefix": 1.0}
DECODE = {"free_kv": 1.0}


def replica(name, *, epoch=1, stage=Stage.ENCODE, model="tiny", slots=8, **more):
    return Replica(replica_id=f"{name}.{epoch}", stage=stage, model=model, slots=slots, **more)


def query(stage=Stage.ENCODE, tokens=9, prefix_tokens=None, **more):
    return RouteQuery(stage=stage, model="tiny", tokens=tokens, prefix_tokens=prefix_tokens or {}, **more)


@pytest.mark.parametrize(
    ("replicas", "asked", "reason"),
    [
        pytest.param([], query(), Reason.NO_REPLICA, id="none"),
        pytest.param([replica("a", model="other")], query(), Reason.NO_REPLICA, id="other-model"),
        pytest.param([replica("a", stage=Stage.DECODE)], query(), Reason.NO_REPLICA, id="other-stage"),
        pytest.param([replica("a")], query(excluded=frozenset({"a.1"})), Reason.NO_REPLICA, id="excluded"),
        pytest.param([replica("a", draining=True)], query(), Reason.ALL_DRAINING, id="draining"),
        pytest.param([replica("a", quarantined=True)], query(), Reason.QUARANTINE, id="set-aside"),
        pytest.param([replica("a", in_flight=8)], query(), Reason.NO_CREDIT, id="no-slot"),
        pytest.param(
            [replica("a", free_kv_bytes=9, total_kv_bytes=90)],
            query(kv_bytes=10),
            Reason.NO_CREDIT,
            id="no-kv",
        ),
        pytest.param(
            [replica("a", domain=("z1", "r2"))],
            query(domain=("z1", "r1"), required_level=2),
            Reason.OUTSIDE_DOMAIN,
            id="other-rack",
        ),
        pytest.param(
            [replica("a")],
            query(domain=("z1",), required_level=1),
            Reason.OUTSIDE_DOMAIN,
            id="domain-unknown",
        ),
        pytest.param(
            [replica("a", domain=("z2", "r1"))],
            query(domain=("z1",), required_level=2),
            Reason.OUTSIDE_DOMAIN,
            id="outside-what-is-known-of-the-domain",
        ),
        pytest.param(
            [replica("a", draining=True), replica("b", in_flight=8)],
            query(),
            Reason.NO_CREDIT,
            id="last-filter",
        ),
    ],
)
def test_nobody_can_take_it(replicas, asked, reason):
    chosen = route(asked, replicas, ENCODE)
    assert (chosen.replica_id, chosen.reason) == (None, reason)


@pytest.mark.parametrize(
    ("replicas", "asked", "weights", "pick", "reason"),
    [
        pytest.param([replica("a")], query(), ENCODE, "a.1", Reason.ONLY_CANDIDATE, id="only"),
        pytest.param([replica("b"), replica("a")], query(), ENCODE, "a.1", Reason.BEST_SCORE, id="tie-by-id"),
        pytest.param(
            [replica("a", pending_tokens=50), replica("b", pending_tokens=9)],
            query(),
            ENCODE,
            "b.1",
            Reason.LEAST_PENDING,
            id="least-pending",
        ),
        pytest.param(
            [
                replica("a", free_kv_bytes=5, total_kv_bytes=99),
                replica("b", free_kv_bytes=6, total_kv_bytes=9),
            ],
            query(),
            DECODE,
            "b.1",
            Reason.MOST_FREE_KV,
            id="most-free-kv",
        ),
        pytest.param(
            [replica("a", pending_tokens=40), replica("b", pending_tokens=90)],
            query(tokens=100, prefix_tokens={"b.1": 64}),
            PREFILL,
            "b.1",
            Reason.PREFIX_HIT,
            id="cached-prefix-saves-more-than-it-waits",
        ),
        pytest.param(
            [replica("a", pending_tokens=40), replica("b", pending_tokens=110)],
            query(tokens=100, prefix_tokens={"b.1": 64}),
            PREFILL,
            "a.1",
            Reason.LEAST_PENDING,
            id="cached-prefix-saves-less-than-it-waits",
        ),
        pytest.param(
            [replica("a", domain=("z1", "r1")), replica("b", domain=("z1", "r2"), free_kv_bytes=9)],
            query(domain=("z1", "r1"), required_level=2),
            DECODE,
            "a.1",
            Reason.ONLY_CANDIDATE,
            id="inside-the-domain-of-prefill",
        ),
        pytest.param(
            [replica("a", domain=("z1", "r2")), replica("b", domain=("z2", "r1"), free_kv_bytes=9)],
            query(domain=("z1",), required_level=2),
            DECODE,
            "a.1",
            Reason.ONLY_CANDIDATE,
            id="inside-what-is-known-of-the-domain",
        ),
        pytest.param(
            [replica("a", free_kv_bytes=1), replica("b", domain=("z2", "r1"), free_kv_bytes=9)],
            query(required_level=2),
            DECODE,
            "b.1",
            Reason.MOST_FREE_KV,
            id="anywhere-if-the-domain-of-prefill-is-unknown",
        ),
        pytest.param(
            [replica("a", free_kv_bytes=90, total_kv_bytes=90)],
            query(kv_bytes=1000),
            DECODE,
            "a.1",
            Reason.ONLY_CANDIDATE,
            id="what-never-fits-goes-to-an-idle-engine-that-refuses-it",
        ),
    ],
)
def test_pick(replicas, asked, weights, pick, reason):
    chosen = route(asked, replicas, weights)
    assert (chosen.replica_id, chosen.reason) == (pick, reason)


@pytest.mark.parametrize(
    ("replicas", "pick", "wanted", "reason"),
    [
        pytest.param([replica("b"), replica("a")], "a.1", "a.1", Reason.QUARANTINE, id="idle"),
        pytest.param(
            [replica("a", in_flight=2), replica("b", in_flight=1)],
            None,
            "b.1",
            Reason.NO_CREDIT,
            id="all-busy",
        ),
        pytest.param(
            [replica("a"), replica("b", quarantined=True)],
            "b.1",
            "b.1",
            Reason.QUARANTINE,
            id="set-aside-already",
        ),
        pytest.param(
            [replica("a"), replica("b", quarantined=True, in_flight=1)],
            None,
            "b.1",
            Reason.NO_CREDIT,
            id="waits-for-the-one-set-aside",
        ),
        pytest.param([replica("a", draining=True)], None, "", Reason.ALL_DRAINING, id="draining"),
    ],
)
def test_work_retried_alone_gets_an_idle_replica_to_itself(replicas, pick, wanted, reason):
    chosen = route(query(alone=True), replicas, ENCODE)
    assert (chosen.replica_id, chosen.wanted, chosen.reason) == (pick, wanted, reason)


def encoders(count, epoch=1, pending_tokens=0):
    return [replica(f"encode-{n}", epoch=epoch, pending_tokens=pending_tokens) for n in range(count)]


def homes(replicas, keys=400):
    names = (route(query(affinity_key=f"image-{k}"), replicas, ENCODE).replica_id for k in range(keys))
    return [name.rpartition(".")[0] for name in names]


def test_repeated_images_spread_over_all_replicas_and_stay():
    first = homes(encoders(4))
    assert first == homes(encoders(4))
    assert min(Counter(first)[f"encode-{n}"] for n in range(4)) > 60


def test_a_restarted_replica_keeps_its_images():
    assert homes(encoders(4, epoch=1)) == homes(encoders(4, epoch=2))


def test_a_new_replica_takes_its_share_and_moves_no_other_image():
    moved = {
        after for before, after in zip(homes(encoders(4)), homes(encoders(5)), strict=True) if before != after
    }
    assert moved == {"encode-4"}


@pytest.mark.parametrize(
    ("home_pending", "follows"),
    [
        pytest.param(100, True, id="as-busy-as-all"),
        pytest.param(133, True, id="below-1.25-of-the-mean"),
        pytest.param(140, False, id="above-1.25-of-the-mean"),
    ],
)
def test_affinity_gives_way_when_its_replica_is_overloaded(home_pending, follows):
    asked = query(affinity_key="image-1")
    home = route(asked, encoders(4), ENCODE).replica_id
    busy = [
        replica(r.replica_id[:-2], pending_tokens=home_pending if r.replica_id == home else 100)
        for r in encoders(4)
    ]
    chosen = route(asked, busy, ENCODE)
    assert (chosen.replica_id == home) is follows
    assert chosen.reason is (Reason.CACHE_AFFINITY if follows else Reason.LEAST_PENDING)


def test_one_item_in_progress_does_not_break_affinity():
    asked = query(affinity_key="image-1", tokens=9)
    home = route(asked, encoders(2), ENCODE).replica_id
    busy = [replica(r.replica_id[:-2], pending_tokens=9 * (r.replica_id == home)) for r in encoders(2)]
    assert route(asked, busy, ENCODE).replica_id == home


replicas = st.lists(
    st.builds(
        replica,
        st.sampled_from("abcdefgh"),
        slots=st.integers(1, 4),
        in_flight=st.integers(0, 4),
        pending_tokens=st.integers(0, 500),
        free_kv_bytes=st.integers(-10, 1000),
        total_kv_bytes=st.just(1000),
        draining=st.booleans(),
        quarantined=st.booleans(),
        domain=st.sampled_from([(), ("z1", "r1"), ("z1", "r2")]),
    ),
    max_size=8,
    unique_by=lambda r: r.replica_id,
)
queries = st.builds(
    query,
    tokens=st.integers(0, 300),
    kv_bytes=st.integers(0, 1200),
    affinity_key=st.sampled_from(["", "x", "y"]),
    prefix_tokens=st.dictionaries(st.sampled_from(["a.1", "b.1", "gone.1"]), st.integers(0, 400)),
    domain=st.sampled_from([(), ("z1", "r1")]),
    required_level=st.integers(0, 2),
    excluded=st.sets(st.sampled_from(["a.1", "b.1"])).map(frozenset),
    alone=st.booleans(),
)
weightings = st.dictionaries(st.sampled_from(sorted(SCORERS)), st.floats(0.1, 10.0), min_size=1)


Z1, Z2 = ("z1", "r1"), ("z2", "r1")


def prefill(name, **more):
    return replica(name, stage=Stage.PREFILL, **more)


def decode(name, **more):
    return replica(name, stage=Stage.DECODE, **more)


@pytest.mark.parametrize(
    ("replicas", "level", "pick"),
    [
        pytest.param(
            [prefill("a", domain=Z1), prefill("b", domain=Z2), decode("d", domain=Z2)], 2, "b.1", id="decode"
        ),
        pytest.param(
            [prefill("a", domain=Z1), prefill("b", domain=Z2), decode("d", domain=Z2)],
            0,
            "a.1",
            id="no-level",
        ),
        pytest.param([prefill("a", domain=Z1), prefill("b", domain=Z2)], 2, "a.1", id="no-decode-anywhere"),
        pytest.param([prefill("a", domain=Z1), decode("d", domain=Z2)], 2, "a.1", id="no-decode-near-any"),
        pytest.param(
            [prefill("a"), prefill("b", domain=Z2), decode("d", domain=Z1)], 2, "a.1", id="unknown-is-near"
        ),
        pytest.param(
            [
                prefill("a", domain=Z1),
                prefill("b", domain=Z2),
                decode("c", domain=Z1, draining=True),
                decode("d", domain=Z2),
            ],
            2,
            "b.1",
            id="draining-does-not-count",
        ),
        pytest.param(
            [prefill("a", domain=Z1), prefill("b", domain=Z2, in_flight=8), decode("d", domain=Z2)],
            2,
            None,
            id="waits-for-a-slot-near-decode",
        ),
    ],
)
def test_prefill_goes_where_decode_can_follow(replicas, level, pick):
    asked = query(Stage.PREFILL, onward_level=level)
    assert route(asked, replicas, {}).replica_id == pick


@given(replicas, queries, weightings)
def test_what_is_picked_may_take_the_work(every, asked, weights):
    chosen = route(asked, every, weights)
    if chosen.replica_id is None:
        return
    picked = next(r for r in every if r.replica_id == chosen.replica_id)
    assert not picked.draining
    assert picked.replica_id not in asked.excluded
    assert picked.in_flight < picked.slots
    assert asked.alone or not picked.quarantined
    assert not asked.alone or picked.in_flight == 0
    if asked.domain:
        assert picked.domain[: asked.required_level] == asked.domain[: asked.required_level]


@given(replicas.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))), queries, weightings)
def test_the_order_of_the_registry_does_not_matter(both, asked, weights):
    assert route(asked, both[0], weights) == route(asked, both[1], weights)


@given(replicas.filter(bool), queries)
def test_every_scorer_stays_between_0_and_1(every, asked):
    for scorer in SCORERS.values():
        scores = scorer.score(asked, every)
        assert len(scores) in (0, len(every))
        assert all(0.0 <= score <= 1.0 for score in scores)


@pytest.mark.parametrize(
    ("replicas", "due_in_s", "expected"),
    [
        pytest.param([{"spare_s": 0.5}, {"spare_s": 2.0}], 5.0, "1.1", id="where-nobody-is-made-late"),
        pytest.param([{"spare_s": 0.5}, {"spare_s": 0.9}], 5.0, None, id="waits-while-there-is-time"),
        pytest.param([{"prompts_s": 4.5}, {"spare_s": 0.9}], 5.0, None, id="waits-for-one-that-is-in-time"),
        pytest.param(
            [{"spare_s": 0.5, "prompts_s": 0.1}, {"spare_s": 0.9}], 1.4, "1.1", id="waits-no-longer"
        ),
        pytest.param([{"prompts_s": 3.0}, {"prompts_s": 2.0}], 1.4, "1.1", id="late-as-little-as-possible"),
        pytest.param([{"prompts_s": 0.2}, {"prompts_s": 0.1}], 5.0, "1.1", id="soonest"),
    ],
)
def test_prompts_go_where_decodes_can_bear_them(replicas, due_in_s, expected):
    """A prompt of a second, to replicas that prefill and decode."""
    views = [replica(n, stage=Stage.DECODE, **more) for n, more in enumerate(replicas)]
    chosen = route(query(Stage.DECODE, prompt_s=1.0, due_in_s=due_in_s), views, DECODE)
    assert chosen.replica_id == expected
    if expected is None:
        assert chosen.reason is Reason.SPARING_DECODES


def test_whoever_could_bear_nothing_takes_what_was_prefilled_elsewhere():
    """Where prefill is apart, decodes do not stand still."""
    full = replica("a", stage=Stage.DECODE, spare_s=0.0, prompts_s=9.0)
    assert route(query(Stage.DECODE), [full], DECODE).replica_id == "a.1"
