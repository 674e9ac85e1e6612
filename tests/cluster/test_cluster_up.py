"""`tercet cluster-up` on a machine that cannot reach Pulumi's downloads."""

import os
import re
import subprocess
import sys

import pytest

from tests.infra.kit import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture
def tercet(cluster, pulumi_cli, tmp_path):
    """Runs a command on the cluster; returns its exit code and what it printed."""
    unreachable = {"HTTPS_PROXY": "http://127.0.0.1:9", "PULUMI_HOME": str(tmp_path)}
    options = ["--kubeconfig", str(cluster.kubeconfig), "--stand-in", "tests.cluster.provider"]

    def run(name, *flags):
        command = [sys.executable, "-m", "cli", name, *options, *flags]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | unreachable,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return run


def test_the_stack_is_looked_at_and_comes_and_goes_by_one_command_each(tercet, core):
    """The first says what stands in for the provider and creates nothing, the last leaves nothing."""
    code, said = tercet("cluster-up", "--preview")
    assert code == 0, said
    assert "stand-in that the tests use" in said
    for each in ("to create", "gpu_hours_per_day", "cost_per_day_usd", "attainment"):
        assert each in said
    assert not core.list_node().items
    assert "tercet" not in {each.metadata.name for each in core.list_namespace().items}
    code, said = tercet("cluster-up")
    assert code == 0, said
    assert "stand-in" not in said
    assert "http://internvl-26b-gateway.tercet.svc" in said
    assert core.list_namespaced_pod("tercet").items
    code, said = tercet("cluster-down")
    assert code == 0, said
    assert not core.list_node().items


def test_a_stack_that_costs_more_than_allowed_is_refused_and_nothing_comes(tercet, core, tmp_path):
    """By the policy pack, with both figures; within its limits the same stack is looked at as without."""
    limits = tmp_path / "limits.json"
    limits.write_text('{"is-affordable": {"pools_usd_per_month": 1000}}')
    code, said = tercet("cluster-up", "--limits", str(limits))
    assert code == 1, said
    assert re.search(r"all nodes of the pools: \$[\d,]+ a month is more than the \$1,000 allowed", said)
    assert not core.list_node().items
    limits.write_text('{"is-affordable": {"pools_usd_per_month": 1e7}}')
    code, said = tercet("cluster-up", "--preview", "--limits", str(limits))
    assert code == 0, said
    assert "to create" in said
    assert "keeps-slos" in said  # advisory


def test_a_cluster_that_does_not_run_here_is_left_alone(tercet, cluster, tmp_path):
    elsewhere = tmp_path / "kubeconfig"
    elsewhere.write_text(cluster.kubeconfig.read_text())
    command = [sys.executable, "-m", "cli", "cluster-up", "--kubeconfig", str(elsewhere)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such cluster runs here" in done.stderr
