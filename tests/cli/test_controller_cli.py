"""Which clusters `tercet controller` takes its options for, and which it refuses."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.members import Member, Mistaken, members_of
from tests.system.harness import ROOT

URL = "redis://:sesame@redis:6379/0?ssl_ca_certs=/etc/ca.crt"
POLICY = f"--policy={ROOT}/policies/internvl-26b.yaml"


@pytest.fixture
def files(tmp_path):
    made = {name: tmp_path / name for name in ("east", "west")}
    for file in made.values():
        file.write_text("")
    return made


def test_one_cluster_has_no_name():
    assert members_of((), [URL, "redis://two"], ["ours"], Path("config")) == [
        Member(name="", kubeconfig=Path("config"), namespace="ours", redis_urls=(URL, "redis://two"))
    ]


def test_named_clusters_have_each_its_file_its_namespace_and_its_shards_in_order(files):
    """The namespace that has no name is of all that have none of their own."""
    clusters = [f"{name}={file}" for name, file in files.items()]
    urls = ["west=redis://w0", f"east={URL}", "west=redis://w1"]
    assert members_of(clusters, urls, ["ours", "west=theirs"], None) == [
        Member(name="east", kubeconfig=files["east"], namespace="ours", redis_urls=(URL,)),
        Member(
            name="west",
            kubeconfig=files["west"],
            namespace="theirs",
            redis_urls=("redis://w0", "redis://w1"),
        ),
    ]


@pytest.mark.parametrize(
    ("clusters", "urls", "more", "told"),
    [
        pytest.param("east", [], {}, "--cluster east: write --cluster NAME=KUBECONFIG", id="no-kubeconfig"),
        pytest.param("a:b={east}", [], {}, "small letters, digits and hyphens", id="name"),
        pytest.param("east={east}.no", [], {}, ".no is no file", id="no-file"),
        pytest.param("east={east} east={west}", [], {}, "two clusters are called east", id="one-name-twice"),
        pytest.param(
            "east={east} west={west}",
            [f"east={URL}"],
            {},
            "no Redis of west; add --redis-url west=URL",
            id="no-url",
        ),
        pytest.param(
            "east={east}",
            [f"north={URL}"],
            {},
            "--redis-url: there is no cluster north; write --redis-url NAME=URL with one of east",
            id="unknown",
        ),
        pytest.param("east={east}", [URL], {}, "--redis-url: it names no cluster", id="url-without-a-name"),
        pytest.param("east={east}", ["east="], {}, "--redis-url: it names no cluster", id="empty-url"),
        pytest.param(
            "east={east}",
            [f"east={URL}"],
            {"namespaces": ["a", "b"]},
            "two namespaces of one cluster",
            id="namespaces",
        ),
        pytest.param(
            "east={east}",
            [f"east={URL}"],
            {"namespaces": ["north=a"]},
            "--namespace: there is no cluster north",
            id="namespace-of-unknown",
        ),
        pytest.param("", [URL], {"namespaces": ["a", "b"]}, "one cluster has one --namespace", id="one"),
        pytest.param(
            "east={east}",
            [f"east={URL}"],
            {"kubeconfig": Path("config")},
            "--kubeconfig is of one cluster",
            id="kubeconfig",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused_without_a_password(files, clusters, urls, more, told):
    options = {"namespaces": ["default"], "kubeconfig": None} | more
    with pytest.raises(Mistaken) as refused:
        members_of(clusters.format(**files).split(), urls, **options)
    assert told in str(refused.value)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["--redis-url=west=redis://r"], "there is no cluster west", id="mistaken"),
        pytest.param(["--redis-url=east=redis://r", "--published"], "leave out --published", id="published"),
    ],
)
def test_the_command_ends_before_it_begins(files, options, told):
    cluster = f"--cluster=east={files['east']}"
    result = CliRunner().invoke(app, ["controller", POLICY, cluster, *options])
    assert result.exit_code == 2
    assert told in result.output


def test_a_cluster_whose_file_says_nothing_is_refused(files):
    options = [f"--cluster=east={files['east']}", "--redis-url=east=redis://r"]
    result = CliRunner().invoke(app, ["controller", POLICY, *options])
    assert result.exit_code == 2
    assert "tercet: " in result.output
