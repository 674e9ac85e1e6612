"""What a stack is told before anything is created."""

import json
import re
from pathlib import Path

import pulumi
import pytest

from infra import program
from infra.adopt import adopt
from infra.config import ConfigError, parse_config
from infra.feasible import check_feasible, infeasibilities
from infra.fleet import fleet_of
from infra.objects.stage_pod import replica_pod
from infra.preview import below_target, predict
from infra.stack import stack_args
from orchestrator.control_policy import Hardware
from stages.types import Stage
from tests.infra.kit import (
    EXAMPLES,
    ROOT,
    WATCHED,
    FakeCluster,
    config_of,
    example_values,
    pulumi_values,
    stack_of,
)

HARDWARE = Hardware.load()
LEVELS = ("topology.kubernetes.io/zone", "example.com/block", "example.com/rack")
POLICY = "policies/internvl-26b.yaml"
SGLANG = Path("policies/examples/sglang-epd.yaml")


def stack(config):
    return stack_args(config, ROOT, HARDWARE.accelerators)


def simulated(nodes=4, levels=LEVELS):
    return {"simulated": {"nodes": nodes, "spread": [{"level": level, "domains": 1} for level in levels]}}


def pools(**changes):
    """Return pools that hold one internvl-26b, with some of them changed."""
    every = {"l40s": simulated(), "h100": simulated()} | changes
    return {name: {"hardware": name, **pool} for name, pool in every.items() if pool}


def service(tmp_path, *edits, name="internvl-26b", **config):
    text = (ROOT / POLICY).read_text().replace("service: internvl-26b", f"service: {name}")
    for old, new in [*edits, ("demand:    {trace: ../data/traces/azure_lmm_window_2024-10-16.csv}", "")]:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / f"{name}.yaml").write_text(text)
    return {name: {"policy": str(tmp_path / f"{name}.yaml"), **config}}


def found(services, node_pools):
    return list(infeasibilities(stack(config_of(services=services, node_pools=node_pools)), HARDWARE))


@pytest.mark.parametrize("autoscaler", ["hpa", "keda"])
def test_what_goes_by_given_work_does_not_scale_sglangs_encoders(autoscaler):
    """They are given none, and would be held at their fewest."""
    told = list(infeasibilities(stack_of(SGLANG, WATCHED, autoscaler=autoscaler), HARDWARE))
    assert any("`tercet:services.sglang-epd.autoscaler`" in each for each in told)
    assert not list(infeasibilities(stack_of(SGLANG, WATCHED, autoscaler="none"), HARDWARE))


@pytest.fixture(scope="module")
def example():
    less = pulumi_values({"tercet:preview": {"rate_scale": 0.3}})
    return parse_config(example_values("simulated") | less, "simulated")


@pytest.fixture(scope="module")
def figures(example):
    return predict(stack(example), example.preview, ROOT, HARDWARE)


def test_the_example_is_feasible_and_its_figures_are_simulated(example, figures):
    """A total beside the service; one service is the total."""
    check_feasible(stack(example), HARDWARE)
    assert "simulation" in figures["kind"]
    (each,) = figures["services"].values()
    assert {key: each[key] for key in figures["total"]} == figures["total"]
    assert set(each["attainment"]) == {"all", "text", "image"}
    assert 0 < each["gpu_hours_per_day"] < 24 * sum(figures["pools"]["accelerators"].values())
    assert each["cost_per_month_usd"] == pytest.approx(each["cost_per_day_usd"] * 730 / 24, rel=1e-4)
    assert figures["not_simulated"] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_feasible_and_can_be_simulated(name):
    """On four nodes for each selector of nodes that exist."""
    values = example_values(name) | pulumi_values({"tercet:preview": {"requests": 200}})
    config = parse_config(values, name)
    labelled = {key: pool.labels for key, pool in config.node_pools.items() if pool.labels}
    there = {f"{key}-{n}": labels.selector for key, labels in labelled.items() for n in range(4)}
    config = adopt(config, FakeCluster(there))
    made = stack(config)
    check_feasible(made, HARDWARE)
    told = predict(made, config.preview, ROOT, HARDWARE)
    assert set(told["services"]) == set(config.services)
    assert told["not_simulated"] == []


def test_the_same_stack_has_the_same_figures(example, figures):
    """To the last digit, so that a second `up` changes nothing."""
    assert json.dumps(predict(stack(example), example.preview, ROOT, HARDWARE)) == json.dumps(figures)


def test_the_pools_that_the_stack_declares_are_those_simulated(tmp_path):
    """On two L40S the service misses its SLO, and is named; on eight it does not."""
    preview, services = {"rate_scale": 0.3}, service(tmp_path)
    told = []
    for nodes in (1, 4):
        encoders = {**simulated(nodes), "accelerators": 2}
        config = config_of(services=services, node_pools=pools(l40s=encoders), preview=preview)
        told.append(below_target(predict(stack(config), config.preview, ROOT, HARDWARE)))
    assert told[0][0].startswith("internvl-26b: simulated attainment")
    assert told[1] == []


def test_hpa_is_simulated_as_the_policy_of_that_name(tmp_path):
    """On the best hardware of each stage, whatever the file's own policy."""
    single = [("[l40s, a100]", "[l40s]"), ("[h20, h100]", "[h100]")]
    named = [*single, ("policy: coupled", "policy: hpa")]
    told = []
    for edits, autoscaler in ((single, "hpa"), (named, "tercet")):
        config = config_of(
            services=service(tmp_path, *edits, autoscaler=autoscaler),
            node_pools=pools(),
            observability={"monitors": True},
            preview={"requests": 600},
        )
        told.append(predict(stack(config), config.preview, ROOT, HARDWARE)["total"])
    assert told[0] == told[1]


def test_long_traces_are_cut_to_their_first_seconds(tmp_path):
    """So many requests of all services together, of the same time of each."""
    services = service(tmp_path) | service(tmp_path, name="other")
    config = config_of(services=services, preview={"requests": 400})
    told = predict(stack(config), config.preview, ROOT, HARDWARE)["services"]
    assert {each["requests"].split(" in ")[0] for each in told.values()} == {
        "200 of azure_lmm_window_2024-10-16 (real, images clipped to 16)"
    }


def test_fixed_services_cost_the_same_whatever_comes(tmp_path):
    """Without an autoscaler the least replicas: 1 l40s, 4 h100 and, of h20 and h100, 4 of the best class."""
    least = [("hardware: [h20, h100]", "hardware: [h100, a100]")]
    services = service(tmp_path, *least, autoscaler="none")
    noop = {"noop": {"policy": "policies/noop.yaml", "autoscaler": "none"}}
    preview = {"trace": "data/traces/azure_llm_2023_conv.csv.gz", "rate_scale": 0.01}
    config = config_of(services=services | noop, node_pools={}, preview=preview)
    told = predict(stack(config), config.preview, ROOT, HARDWARE)
    assert told["total"]["gpu_hours_per_day"] == pytest.approx(24 * 9, rel=0.01)
    assert told["services"]["internvl-26b"]["attainment"]["image"] is None
    assert told["not_simulated"] == ["noop: its model has no profile"]


def test_processors_are_on_any_node(tmp_path):
    """A service on them needs no pool unless the controller is to place it, and is then not simulated."""
    tiny = {"tiny": {"policy": "policies/tiny.yaml", "autoscaler": "none"}}
    config = config_of(services=service(tmp_path) | tiny, node_pools=pools(), preview={"rate_scale": 0.05})
    made = stack(config)
    check_feasible(made, HARDWARE)
    told = predict(made, config.preview, ROOT, HARDWARE)
    assert list(told["services"]) == ["internvl-26b"]
    assert told["not_simulated"] == ["tiny: it runs on hardware of no declared pool"]


def test_a_trace_that_is_not_there_names_its_key(tmp_path):
    config = config_of(services=service(tmp_path), preview={"trace": "no.csv"})
    with pytest.raises(ConfigError, match=r"(?s)`tercet:preview`: .*no\.csv.*simulate: false"):
        predict(stack(config), config.preview, ROOT, HARDWARE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param(
            {"l40s": None}, ["encode runs on l40s or a100, and the node pools have h100"], id="class"
        ),
        pytest.param(
            {"l40s": simulated(levels=LEVELS[:2]), "h100": simulated(levels=LEVELS[:2])},
            ["nodes of no pool bear the topology level example.com/rack"],
            id="level",
        ),
        pytest.param(
            {"h100": {"accelerators": 4, **simulated(1)}},
            [
                "take 8 h100 or h20 (internvl-26b prefill 1 × 4, internvl-26b decode 1 × 4), "
                "and the pools have room for 4"
            ],
            id="least",
        ),
        pytest.param(
            {"h20": simulated(levels=()), "h100": {"accelerators": 4, **simulated(1)}}, [], id="another-class"
        ),
    ],
)
def test_what_the_pools_cannot_hold_is_refused_with_numbers(changes, told):
    services = {"internvl-26b": {"policy": POLICY}}
    texts = found(services, pools(**changes))
    assert len(texts) == len(told)
    for text, part in zip(texts, told, strict=True):
        assert part in text


def test_a_level_that_keeps_stages_apart_is_refused(tmp_path):
    """Prefill and decode shall share a rack, and no rack has hardware of both."""
    named = [
        ("hardware: [h20, h100]", "hardware: [h20]"),
        ("prefill-decode: auto", "prefill-decode: example.com/rack"),
    ]
    two = {"simulated": {"nodes": 2, "spread": [{"level": LEVELS[0], "domains": 1}]}}
    (text,) = found(service(tmp_path, *named), pools(h20=two))
    assert "prefill-decode requires level example.com/rack" in text
    assert "together in domains of topology.kubernetes.io/zone" in text


def test_what_does_not_fit_its_accelerator_is_refused_without_pools(tmp_path):
    """The language model's weights on one L4, and every other mistake beside it."""
    wrong = [("[h100],       tp: 4", "[l4],       tp: 1")]
    services = service(tmp_path, *wrong) | {"noop": {"policy": "policies/noop.yaml"}}
    with pytest.raises(ConfigError) as refused:
        check_feasible(stack(config_of(services=services)), HARDWARE)
    text = str(refused.value)
    assert "stages.prefill.hardware" in text
    assert "GB usable of 1 × l4" in text
    assert "`tercet:services.noop.policy`" in text


def test_services_of_one_controller_share_their_levels(tmp_path):
    other = service(tmp_path, (f"{LEVELS[0]}, {LEVELS[1]}, ", ""), name="other")
    (text,) = found({"internvl-26b": {"policy": POLICY}} | other, {})
    assert "these differ: internvl-26b: topology.kubernetes.io/zone" in text


def test_real_nodes_bear_what_their_pool_says(tmp_path):
    """Zone and host name in any case, others if they are declared; their values are not known.

    Nodes that are there are taken to be together, those that Karpenter could make to be apart.
    """
    bought = {"instance_types": ["p5.48xlarge"], "max_accelerators": 20, "role": "r", "discovery": "d"}
    declared = {
        "bought": {"hardware": "h100", "karpenter": bought},
        "own": {
            "hardware": "l40s",
            "levels": ["example.com/rack"],
            "labels": {"nodes": ["n-1"], "labels": {"example.com/block": "b"}},
        },
    }
    made = stack(config_of(services=service(tmp_path, autoscaler="none"), node_pools=declared))
    assert [(node.accelerators, node.domain) for node in fleet_of(made.node_pools, LEVELS)] == [
        (8, ("bought-0",)),
        (8, ("bought-1",)),
        (8, ("?", "b", "?")),
    ]


@pytest.mark.parametrize(
    ("accelerators", "edge", "zones", "fits"),
    [
        pytest.param(8, "topology.k8s.aws/network-node-layer-3", ["a", "b"], True, id="on-one-node"),
        pytest.param(4, "topology.k8s.aws/network-node-layer-3", ["a", "b"], False, id="on-two-nodes"),
        pytest.param(4, "topology.kubernetes.io/zone", ["a", "b"], True, id="in-a-zone"),
        pytest.param(4, "topology.kubernetes.io/zone", [], False, id="in-any-zone"),
    ],
)
def test_what_must_be_near_fits_on_one_node_that_karpenter_makes(tmp_path, accelerators, edge, zones, fits):
    """Of two nobody knows beforehand how near they will be, but for a zone that they are asked for."""
    text = (ROOT / "policies/examples/internvl-26b-aws.yaml").read_text().partition("demand:")[0]
    file = tmp_path / "policy.yaml"
    edges = f"{{encode-prefill: any, prefill-decode: {edge}}}"
    file.write_text(re.sub("{encode-prefill: .*}", edges, text))
    bought = {"instance_types": ["i"], "role": "r", "discovery": "d", "max_accelerators": 64, "zones": zones}
    nodes = {
        "h100": {"hardware": "h100", "accelerators": accelerators, "karpenter": bought},
        "l40s": {"hardware": "l40s", "accelerators": 4, "karpenter": bought},
    }
    texts = found({"internvl-26b-aws": {"policy": str(file)}}, nodes)
    assert bool(texts) is not fits
    assert all("is known to be near no other below the zone" in text for text in texts)


def test_a_stack_that_cannot_work_ends_the_run_with_the_list(monkeypatch):
    """Before anything is declared."""
    values = pulumi_values({"tercet:services": {"noop": {"policy": "policies/noop.yaml"}}})
    monkeypatch.setattr(program, "get_config_env", lambda: values)
    monkeypatch.setattr(program, "declare", lambda args: pytest.fail("declared"))
    with pytest.raises(pulumi.RunError, match="nothing was changed"):
        program.main()


@pytest.mark.parametrize("simulate", [True, False])
def test_a_run_exports_its_figures_unless_told_not_to(monkeypatch, simulate):
    told = []
    preview = pulumi_values({"tercet:preview": {"simulate": simulate, "rate_scale": 0.1}})
    monkeypatch.setattr(program, "get_config_env", lambda: example_values("simulated") | preview)
    monkeypatch.setattr(program, "declare", lambda args: None)
    monkeypatch.setattr(program, "tell", told.append)
    program.main()
    assert len(told) == simulate


def test_a_service_that_leaves_prefill_to_decode_is_built_without_a_prediction(tmp_path):
    """And without prefill's pool; decode's engine is told to look for embeddings."""
    split = ("scaling:   {policy: coupled, params: {}}", "split: {prefill_from: null}")
    made = stack(config_of(services=service(tmp_path, split), node_pools=pools()))
    told = predict(made, parse_config(example_values("simulated"), "simulated").preview, ROOT, HARDWARE)
    assert told["not_simulated"] == [
        "internvl-26b: requests that are not split by stage are not simulated yet"
    ]
    assert {pool.stage for pool in made.services[0].pools} == {Stage.ENCODE, Stage.DECODE}
    decode = next(pool for pool in made.services[0].pools if pool.stage is Stage.DECODE)
    engine = replica_pod(decode, "rollout")["containers"][1]
    assert any(arg.startswith("--ec-transfer-config=") for arg in engine["args"])
    assert not any(arg.startswith("--kv-transfer-config=") for arg in engine["args"])
