"""Which stage each replica of `tercet up` is told to do, where that may change."""

from pathlib import Path

import pytest

from cli.role_files import RoleFiles
from orchestrator.policy import load_policy
from stages.types import Stage
from tests.system.harness import ROOT

EXAMPLES = ROOT / "policies" / "examples"


@pytest.fixture
def files(tmp_path: Path) -> RoleFiles:
    return RoleFiles(tmp_path / "roles", load_policy(EXAMPLES / "sglang-roles.yaml"))


def test_a_replica_begins_with_its_stage_and_goes_back_to_it(files: RoleFiles, tmp_path: Path) -> None:
    files.begin("prefill-0", Stage.PREFILL)
    roles = files.of("prefill-0", Stage.PREFILL)
    assert roles
    file = Path(roles.file)
    assert (file.read_text(), roles.slots) == ("prefill\n", {Stage.PREFILL: 16, Stage.DECODE: 16})
    file.write_text("decode")
    files.give_up("prefill-0")
    assert file.read_text() == "prefill\n"
    files.clear()
    assert not file.parent.exists()


def test_encoders_and_replicas_of_other_services_keep_their_stage(files: RoleFiles, tmp_path: Path) -> None:
    files.begin("encode-0", Stage.ENCODE)
    assert files.of("encode-0", Stage.ENCODE) is None
    others = RoleFiles(tmp_path / "others", load_policy(EXAMPLES / "sglang-epd.yaml"))
    others.begin("prefill-0", Stage.PREFILL)
    assert others.of("prefill-0", Stage.PREFILL) is None
    assert not (tmp_path / "others").exists()
