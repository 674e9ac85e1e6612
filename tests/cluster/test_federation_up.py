"""`pulumi up` of two member stacks and of the second program that joins them, on a real API server."""

import pytest
import yaml
from kubernetes import client
from pulumi import automation

from infra.automation import programs
from infra.federation.program import main
from infra.objects.federation import NAME
from tests.cluster.conftest import api
from tests.cluster.workbench import Bench
from tests.infra.kit import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PROJECT = "tercet-federation"


@pytest.fixture
def members(cluster, pulumi_cli, tmp_path):
    """Two stacks of one backend, each in a namespace of its own."""
    made = {}
    for name in ("east", "west"):
        made[name] = Bench(folder=tmp_path, kubeconfig=cluster.kubeconfig, cli=pulumi_cli, name=name)
        made[name].serve()
        made[name].config["tercet:controller"] = "federation"
    made["west"].config["tercet:broker"] = {"shards": 2}
    return made


def federation(folder, kubeconfig, policy):
    """Return the stack of the second program beside those of its members."""
    work = folder / "second"
    work.mkdir()
    config = {
        "kubernetes:kubeconfig": str(kubeconfig),
        f"{PROJECT}:members": {
            name: {"stack": f"organization/tercet/{name}", "secret": name} for name in ("east", "west")
        },
        f"{PROJECT}:services": {"small": str(policy)},
    }
    (work / "Pulumi.all.yaml").write_text(yaml.safe_dump({"config": config}))
    options = automation.LocalWorkspaceOptions(
        work_dir=str(work),
        pulumi_home=str(folder / "home"),
        env_vars={
            "PULUMI_BACKEND_URL": (folder / "state").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        },
        project_settings=automation.ProjectSettings(PROJECT, "python", main=str(ROOT / "infra/federation")),
        pulumi_command=automation.PulumiCommand(str(programs(folder).parent)),
    )
    return automation.create_or_select_stack("all", project_name=PROJECT, program=main, opts=options)


def test_stacks_are_joined_by_what_they_say_of_themselves(members, cluster, tmp_path):
    """The controller is told each member's namespace and shards; a second `up` changes nothing."""
    east, west = members.values()
    east.up()
    stack = federation(tmp_path, cluster.kubeconfig, tmp_path / "small.yaml")
    with pytest.raises(automation.CommandError, match="tercet/west"):
        stack.up()
    west.up()
    stack.up()
    apps = client.AppsV1Api(api(cluster))
    (container,) = apps.read_namespaced_deployment(NAME, PROJECT).spec.template.spec.containers
    assert {"--namespace=east=east", "--namespace=west=west"} <= set(container.args)
    told = {entry.name: entry.value for entry in container.env}["TERCET_REDIS_URL"]
    assert told == "east=$(REDIS_URL_0_0) west=$(REDIS_URL_1_0) west=$(REDIS_URL_1_1)"
    assert stack.up().summary.resource_changes.keys() == {"same"}
    del west.config["tercet:controller"]
    west.up()
    with pytest.raises(automation.CommandError, match="west is no member of a federation"):
        stack.up()
    stack.destroy()
    for each in members.values():
        each.destroy()
