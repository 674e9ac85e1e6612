"""How long Pulumi takes for twenty services of three stages on two hardware classes each."""

import time

import pytest

from localcluster.programs import find_programs
from tests.cluster.workbench import Bench

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # the first run builds the programs

HARDWARE = {"encode": ["l40s", "a100"], "prefill": ["h100", "a100"], "decode": ["h20", "h100"]}
PREVIEW_S, UP_S = 20.0, 90.0
"""Goals on two cores that do nothing else."""


def test_twenty_services_come_in_time(cluster, tmp_path, capsys):
    """Figures are in docs/benchmarks.md."""
    cli = find_programs(["pulumi"], print)["pulumi"]
    bench = Bench(folder=tmp_path, kubeconfig=cluster.kubeconfig, cli=cli, name="scale", checkpoints=False)
    for number in range(20):
        hardware = {f"stages__{stage}__hardware": names for stage, names in HARDWARE.items()}
        bench.serve(f"service{number}", **hardware)
    preview_s, up_s = timed(bench.preview), timed(bench.up)
    with capsys.disabled():
        print(f"\n{len(bench.objects())} objects: preview {preview_s:.1f} s, up {up_s:.1f} s")
    assert preview_s < PREVIEW_S
    assert up_s < UP_S


def timed(step):
    """Return how many seconds a step took."""
    started_s = time.monotonic()
    step()
    return time.monotonic() - started_s
