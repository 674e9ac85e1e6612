"""NetworkPolicies as their specification explains them, one rule a row."""

import pytest

from tests.infra.reach import Pod, may_connect, selects

WEB = Pod(address="10.0.0.1", namespace="shop", labels={"app": "web"})
STORE = Pod(address="10.0.0.2", namespace="shop", labels={"app": "store"})
ELSEWHERE = Pod(address="10.0.1.1", namespace="lab", labels={"app": "web"}, namespace_labels={"team": "x"})
OUTSIDE = Pod(address="93.184.216.34")


def policy(namespace="shop", app="store", **spec):
    selector = {"matchLabels": {"app": app}} if app else {}
    return {"metadata": {"namespace": namespace}, "spec": {"podSelector": selector, **spec}}


def from_(*peers, **rule):
    return policy(ingress=[{"from": list(peers), **rule}])


LAB = {"namespaceSelector": {"matchLabels": {"team": "x"}}}
WEBS = {"podSelector": {"matchLabels": {"app": "web"}}}
TEN = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24"]}}
HTTP = {"ports": [{"port": 80}]}


@pytest.mark.parametrize(
    ("policies", "source", "target", "held"),
    [
        pytest.param([], OUTSIDE, STORE, True, id="no policy isolates nobody"),
        pytest.param([policy(ingress=[])], WEB, STORE, False, id="no rule lets nobody in"),
        pytest.param([policy(ingress=[])], STORE, WEB, True, id="who is shut may still call"),
        pytest.param([policy(namespace="lab", ingress=[])], WEB, STORE, True, id="other namespace"),
        pytest.param([policy(app="", ingress=[])], WEB, STORE, False, id="an empty selector takes all"),
        pytest.param([policy(ingress=[{}])], OUTSIDE, STORE, True, id="an empty rule lets all in"),
        pytest.param([policy(ingress=[]), policy(ingress=[{}])], WEB, STORE, True, id="policies add up"),
        pytest.param([from_(WEBS)], WEB, STORE, True, id="pods"),
        pytest.param([from_(WEBS)], ELSEWHERE, STORE, False, id="pods are of the own namespace"),
        pytest.param([from_(LAB)], ELSEWHERE, STORE, True, id="all pods of a namespace"),
        pytest.param([from_(LAB | WEBS)], WEB, STORE, False, id="both in one peer"),
        pytest.param([from_(LAB, WEBS)], WEB, STORE, True, id="either of two peers"),
        pytest.param([from_(TEN)], WEB, STORE, True, id="block"),
        pytest.param([from_(TEN)], ELSEWHERE, STORE, False, id="hole in a block"),
        pytest.param([from_(WEBS)], OUTSIDE, STORE, False, id="no pod has no labels"),
        pytest.param([from_(WEBS, **HTTP)], WEB, STORE, False, id="another port"),
        pytest.param(
            [from_(WEBS, ports=[{"port": 80, "endPort": 90}])], WEB, STORE, True, id="range of ports"
        ),
        pytest.param(
            [from_(WEBS, ports=[{"protocol": "UDP"}])], WEB, STORE, False, id="another protocol, any port"
        ),
        pytest.param([policy(policyTypes=["Egress"])], STORE, WEB, False, id="shut in"),
        pytest.param([policy(policyTypes=["Egress"])], WEB, STORE, True, id="shut in may be called"),
        pytest.param([policy(egress=[{"to": [WEBS]}])], STORE, WEB, True, id="out to pods"),
        pytest.param([policy(egress=[{"to": [WEBS]}])], STORE, OUTSIDE, False, id="out to nobody else"),
        pytest.param([policy(egress=[{"to": [WEBS]}])], WEB, STORE, False, id="ingress is meant too"),
        pytest.param(
            [policy(egress=[{}]), policy(app="web", ingress=[])], STORE, WEB, False, id="both ends count"
        ),
    ],
)
def test_a_connection_is_open_if_both_ends_let_it(policies, source, target, held):
    assert may_connect(policies, source, target, 85) == held


@pytest.mark.parametrize(
    ("operator", "chosen"), [("In", True), ("NotIn", False), ("Exists", True), ("DoesNotExist", False)]
)
def test_expressions_select_by_sets(operator, chosen):
    values = {"values": ["web"]} if operator.endswith("In") else {}
    selector = {"matchExpressions": [{"key": "app", "operator": operator, **values}]}
    assert selects(selector, {"app": "web"}) == chosen
    assert selects(selector, {}) != chosen
