"""What an edit of a policy file changes in a running process, and what the reference says of it."""

from pathlib import Path

import pytest
import yaml

from orchestrator.core.scaling import SCALERS
from orchestrator.policy import (
    PolicyError,
    PolicyWatcher,
    classify,
    dump_policy,
    keep_running,
    load_policy,
    restore_policy,
)
from orchestrator.policy.changes import flat, kind_of
from orchestrator.policy.load import parse_policy

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "policies"
BASE = """\
apiVersion: tercet/v1
service: tiny
model: {name: tiny}
stages:
  encode:  {engine: tiny}
  prefill: {engine: tiny, min: 1, max: 4}
  decode:  {engine: tiny, batch: 32}
"""


STATIC = {f"scaling.params.{stage}" for stage in ("encode", "prefill", "decode")}
"""Parameters of the default scaling policy; test_scaling_params.py looks at those of all."""


def edited(*edits, more=""):
    text = BASE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text + more


def policy(*edits, more=""):
    return parse_policy(edited(*edits, more=more), "p.yaml")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.name", "rollout"),
        ("model.kappa", "rollout"),
        ("stages.encode.engine", "rollout"),
        ("stages.decode.hardware", "rollout"),
        ("stages.prefill.tp", "rollout"),
        ("stages.prefill.batch", "rollout"),
        ("stages.prefill.drain_s", "rollout"),
        ("stages.prefill.min", "live"),
        ("stages.prefill.budget_s", "live"),
        ("routing.encode.prefix", "live"),
        ("admission.limits.images", "live"),
        ("scaling.params.beta", "live"),
        ("topology.levels", "live"),
    ],
)
def test_kind_of_a_field(path, kind):
    assert kind_of(path) == kind


def test_classify_names_each_field_that_differs():
    new = policy(
        ("batch: 32", "batch: 64"), ("max: 4", "max: 6"), more="routing: {decode: {pending_tokens: 1}}"
    )
    assert [(c.path, c.kind, c.old, c.new) for c in classify(policy(), new)] == [
        ("stages.prefill.max", "live", 4, 6),
        ("stages.decode.batch", "rollout", 32, 64),
        ("routing.decode.pending_tokens", "live", 0.0, 1.0),
        ("routing.decode.free_kv", "live", 1.0, 0.0),
    ]
    assert classify(new, new) == ()


def reference():
    """Yield path, default and kind of each field in the reference's tables, but for parameters of scaling."""
    for line in (ROOT / "docs" / "policy.md").read_text().splitlines():
        if line.startswith("| `") and line.removeprefix("| `").partition(".")[0] not in SCALERS:
            path, _, _, default, kind = (cell.strip() for cell in line.strip("|").split("|"))
            yield path.strip("`"), default.strip("`"), kind


def fields():
    """Return the value of each field of a policy that leaves all it can to the defaults."""
    every = dict(flat(policy()))
    return {
        path.replace("stages.encode", "stages.*").replace("routing.encode", "routing.*"): value
        for path, value in every.items()
        if not path.startswith(("stages.prefill", "stages.decode", "routing.prefill", "routing.decode"))
        and path not in STATIC
    }


def test_the_reference_names_each_field_with_its_kind():
    assert {path: kind for path, _, kind in reference()} == {path: kind_of(path) for path in fields()}


def test_the_reference_names_each_default():
    for path, default, _ in reference():
        if default not in ("required", "below"):
            value = fields()[path]
            assert yaml.safe_load(default) == (list(value) if isinstance(value, tuple) else value), path


@pytest.fixture
def edit(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(BASE)

    def write(*edits, more=""):
        # As editors save: the new text appears at once.
        file.with_suffix(".new").write_text(edited(*edits, more=more))
        file.with_suffix(".new").replace(file)

    write.file = file
    return write


def test_an_edit_of_a_live_field_is_taken(edit):
    watcher = PolicyWatcher(edit.file)
    edit(more="admission: {queue_s: 3}\n")
    assert watcher.refresh(0.0).admission.queue_s == 3.0
    assert (watcher.error, watcher.notice, watcher.revision) == (None, None, 1)
    assert [str(change) for change in watcher.changes] == ["admission.queue_s: 10.0 → 3.0"]


def test_the_file_is_looked_at_once_per_period(edit):
    watcher = PolicyWatcher(edit.file, period_s=0.5)
    watcher.refresh(10.0)
    edit(more="admission: {queue_s: 3}\n")
    assert watcher.refresh(10.4).admission.queue_s == 10.0
    assert watcher.refresh(10.5).admission.queue_s == 3.0


def test_what_processes_were_started_with_stays_until_they_are_replaced():
    running = policy(("engine: tiny", "engine: vllm"))
    edited_text = edited(("engine: tiny", "engine: vllm"), ("batch: 32", "batch: 64"))
    new = parse_policy(edited_text + "split: {prefill_from: 64}\nadmission: {queue_s: 3}\n", "p.yaml")
    taken = keep_running(running, new)
    assert [change.path for change in classify(running, taken)] == ["admission.queue_s"]
    assert {c.path for c in classify(taken, new)} == {"split.prefill_from", "stages.decode.batch"}


def test_a_bad_edit_keeps_the_last_good_policy_and_says_so(edit):
    watcher = PolicyWatcher(edit.file)
    edit(more="admission: {queue_s: 3}\n")
    watcher.refresh(0.0)
    edit(more="admission: {queu_s: 4}\n")
    assert watcher.refresh(1.0).admission.queue_s == 3.0
    assert "p.yaml:8:13: `admission.queu_s`: unknown key; did you mean `queue_s`?" in watcher.error
    assert "last good policy" in watcher.error
    edit(more="admission: {queue_s: 5}\n")
    assert watcher.refresh(2.0).admission.queue_s == 5.0
    assert (watcher.error, watcher.revision) == (None, 2)


def test_a_file_that_vanishes_is_an_error_until_it_is_back(edit):
    watcher = PolicyWatcher(edit.file)
    edit.file.unlink()
    assert watcher.refresh(0.0).service == "tiny"
    assert "cannot be read" in watcher.error
    edit()
    watcher.refresh(1.0)
    assert (watcher.error, watcher.revision) == (None, 0)


def test_an_edit_of_a_rollout_field_waits_for_a_restart_and_the_rest_is_taken(edit):
    watcher = PolicyWatcher(edit.file)
    edit(("batch: 32", "batch: 64"), ("max: 4", "max: 6"))
    running = watcher.refresh(0.0)
    assert (running.stages.decode.batch, running.stages.prefill.max) == (32, 6)
    assert watcher.notice == "needs restart: stages.decode.batch: 32 → 64"
    edit()
    assert watcher.refresh(1.0) == load_policy(edit.file)
    assert watcher.notice is None


def test_what_was_in_force_outlives_the_process_whatever_the_file_says_by_then(edit):
    """A bad edit, an edit of a rollout field and a file that is gone are to a new process what they were."""
    before = PolicyWatcher(edit.file)
    edit(more="admission: {queue_s: 3}\n")
    running = restore_policy(dump_policy(before.refresh(0.0)))
    assert running == before.policy
    edit(more="admission: {queu_s: 4}\n")
    after = PolicyWatcher(edit.file, running=running)
    assert (after.policy, "queu_s" in after.error) == (running, True)
    edit(("batch: 32", "batch: 64"), more="admission: {queue_s: 5}\n")
    after = PolicyWatcher(edit.file, running=running)
    assert (after.policy.stages.decode.batch, after.policy.admission.queue_s) == (32, 5.0)
    assert "stages.decode.batch" in after.notice
    edit.file.unlink()
    assert PolicyWatcher(edit.file, running=running).policy == running


@pytest.mark.parametrize("file", sorted(POLICIES.rglob("*.yaml")), ids=lambda file: file.name)
def test_every_policy_is_restored_as_it_was(file):
    policy = load_policy(file)
    assert restore_policy(dump_policy(policy)) == policy


def test_no_good_policy_to_start_with_is_an_error(tmp_path):
    with pytest.raises(PolicyError):
        PolicyWatcher(tmp_path / "none.yaml")
