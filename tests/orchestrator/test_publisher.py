"""From an edit to the files that processes follow: what arrives, what is refused, what a lapse leaves."""

import asyncio
import logging
from dataclasses import replace

import pytest

from orchestrator.control_policy import Hardware
from orchestrator.policy import PolicyWatcher
from orchestrator.policy_copy import PolicyCopy, look
from orchestrator.ports import PolicyEdition
from orchestrator.publisher import Publisher
from tests.fakes.policies import FakePolicies, FakeSource
from tests.system.harness import ROOT

TINY = (ROOT / "policies/tiny.yaml").read_text()
PROFILE = (ROOT / "data/profiles/tiny.yaml").read_text()
HARDWARE = Hardware.load()
NAME = "tiny-policy"


class Stand:
    """A publisher of one policy, and a process that follows it."""

    def __init__(self, tmp_path):
        self.source, self.store = FakeSource(), FakePolicies()
        self.edit(1, 1)
        self.publisher = Publisher(self.source, self.store, [NAME], HARDWARE)
        seed = tmp_path / "mounted" / "policy.yaml"
        seed.parent.mkdir()
        seed.write_text(TINY)
        self.copy = PolicyCopy(seed)
        self.watcher = PolicyWatcher(self.copy.path, period_s=0.0)

    def pass_on(self):
        """Return the policy in force after the publisher and the process have looked."""

        async def once():
            await self.publisher.step()
            await look(self.store, {"tiny": self.copy})

        asyncio.run(once())
        return self.watcher.refresh(0.0)

    def edit(self, *version, text=TINY, beside=None):
        self.source.editions[NAME] = PolicyEdition(version=version, text=text, beside=beside or {})


@pytest.fixture
def stand(tmp_path):
    return Stand(tmp_path)


def with_queue(seconds):
    return TINY.replace("queue_s: 10", f"queue_s: {seconds}")


def test_an_edit_reaches_those_who_follow(stand):
    assert stand.pass_on().admission.queue_s == 10
    stand.edit(1, 2, text=with_queue(20))
    assert stand.pass_on().admission.queue_s == 20
    assert (stand.copy.version, stand.watcher.error) == ((1, 2), None)


def test_until_something_is_published_the_mounted_file_is_followed(stand, tmp_path):
    stand.source.editions.clear()
    assert stand.pass_on().admission.queue_s == 10
    (tmp_path / "mounted/policy.yaml").write_text(with_queue(15))
    assert stand.pass_on().admission.queue_s == 15
    assert stand.copy.version is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(TINY.replace("queue_s", "queue"), "unknown key", id="key"),
        pytest.param(TINY.replace("batch: 32", "batch: 0"), "batch", id="value"),
        pytest.param(TINY.replace("tpot_s: 0.05", "tpot_s: 0.000001"), "tpot_s", id="infeasible"),
        pytest.param("", "policy.yaml", id="empty"),
    ],
)
def test_a_bad_edit_is_told_once_and_the_last_one_stays(stand, caplog, text, told):
    stand.edit(1, 2, text=with_queue(20))
    stand.pass_on()
    stand.edit(1, 3, text=text)
    with caplog.at_level(logging.ERROR):
        assert [stand.pass_on().admission.queue_s for _ in range(3)] == [20] * 3
    (record,) = caplog.records
    assert told in record.getMessage()
    assert stand.store.editions["tiny"].version == (1, 2)
    stand.edit(1, 4, text=with_queue(30))
    assert stand.pass_on().admission.queue_s == 30


def test_an_older_version_is_taken_by_nobody(stand, caplog):
    """Neither by the store nor, where the store has gone back to it, by who has seen a newer one."""
    stand.edit(1, 5, text=with_queue(20))
    stand.pass_on()
    stand.edit(1, 4, text=with_queue(30))
    assert stand.pass_on().admission.queue_s == 20
    assert "has a newer one" in caplog.text
    stand.store.editions["tiny"] = replace(stand.source.editions[NAME])
    assert stand.pass_on().admission.queue_s == 20


def test_what_redis_has_lost_is_published_again(stand):
    stand.edit(1, 2, text=with_queue(20))
    stand.pass_on()
    stand.store.editions.clear()
    assert stand.pass_on().admission.queue_s == 20
    assert stand.store.editions["tiny"].version == (1, 2)


def test_nothing_changes_while_cluster_or_redis_are_away_and_edits_arrive_afterwards(stand):
    stand.pass_on()
    stand.edit(1, 2, text=with_queue(20))
    stand.source.away = True
    assert stand.pass_on().admission.queue_s == 10
    stand.source.away, stand.store.away = False, True
    assert stand.pass_on().admission.queue_s == 10
    stand.store.away = False
    assert stand.pass_on().admission.queue_s == 20


def test_a_policy_that_is_deleted_stays_in_force(stand, caplog):
    stand.pass_on()
    stand.source.editions.clear()
    assert stand.pass_on().admission.queue_s == 10
    assert "there is none of that name" in caplog.text


def test_a_profile_comes_with_its_policy(stand):
    named = TINY.replace("{name: tiny, kappa: 1}", "{name: tiny, kappa: 1, profile: profile-1.yaml}")
    stand.edit(1, 2, text=named, beside={"profile-1.yaml": PROFILE})
    assert stand.pass_on().model.profile == "profile-1.yaml"
    assert (stand.copy.path.parent / "profile-1.yaml").read_text() == PROFILE
    stand.edit(1, 3)
    stand.pass_on()
    assert [each.name for each in stand.copy.path.parent.iterdir()] == ["policy.yaml"], "nothing old is left"


def test_an_edition_that_cannot_be_written_leaves_the_one_before(stand, caplog):
    stand.pass_on()
    before = stand.copy.path.read_text()
    kept = stand.copy.path.resolve().parent
    (kept.parent / "1-2").write_text("in the way")
    stand.edit(1, 2, text=with_queue(20))
    assert stand.pass_on().admission.queue_s == 10
    assert "cannot be had" in caplog.text
    assert stand.copy.path.read_text() == before
    (kept.parent / "1-2").unlink()
    assert stand.pass_on().admission.queue_s == 20
