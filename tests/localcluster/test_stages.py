"""What docs/cluster.md says of the stages that KWOK plays."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = ROOT / "localcluster/stages"


def test_every_annotation_that_a_stage_goes_by_is_explained():
    played = "".join(file.read_text() for file in STAGES.glob("*.yaml"))
    rows = [line for line in (ROOT / "docs/cluster.md").read_text().splitlines() if line.startswith("| ")]
    asked = set(re.findall(r'annotations\["(tercet\.dev/[a-z-]+)"\]', played))
    assert len(asked) > 10
    assert asked == set(re.findall(r"`(tercet\.dev/[a-z-]+)", "\n".join(rows)))
