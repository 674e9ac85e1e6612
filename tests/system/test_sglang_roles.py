"""`tercet up` in front of emulated SGLang servers that change between prefill and decode under load."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest

from orchestrator.adapters.redis import RedisLedger, connect
from orchestrator.controller import Controller, ServicePolicy
from orchestrator.core.observed import Node
from orchestrator.core.planned import ControlPolicy
from orchestrator.core.pools import Move, Pod, Pool
from orchestrator.counting import steady_unix_s
from orchestrator.ports import ClusterView
from stages.emulator.config import EmulatorConfig, EngineTiming, Kind, Role
from stages.types import Stage
from tests.fakes.cluster import FakeCluster
from tests.fakes.emulator import Emulated, emulated
from tests.orchestrator.core.fleets import SwitchingParams, policy
from tests.stages.emulator.kit import chat, image, nothing_left
from tests.system.harness import ROOT, System, until
from tests.system.served import ask

POLICY = ROOT / "policies" / "examples" / "sglang-roles.yaml"
BODIES = [
    chat(f"question {n}", *[image(n)] * (n % 3), model="tiny", return_token_ids=None) for n in range(16)
]
TIMING = EngineTiming(image_s=0.01, prefill_s=lambda tokens: 0.01, decode_s=lambda sequences, tokens: 0.005)

pytestmark = pytest.mark.slow


class Servers:
    """An encoder, two servers that begin with prefill, and two that begin with decode."""

    def __init__(self, running: ExitStack, *, role_switch: bool) -> None:
        def start(role: Role) -> Emulated:
            config = EmulatorConfig(
                kind=Kind.SGLANG,
                role=role,
                model="tiny",
                lease_s=300.0,
                language_only=role is Role.PREFILL,
                role_switch=role_switch and role.moves_kv,
            )
            return running.enter_context(emulated(config, TIMING))

        self.encode = [start(Role.ENCODE)]
        self.prefill = [start(Role.PREFILL) for _ in range(2)]
        self.decode = [start(Role.DECODE) for _ in range(2)]

    def addresses(self) -> str:
        by_stage = {Stage.ENCODE: self.encode, Stage.PREFILL: self.prefill, Stage.DECODE: self.decode}
        return ",".join(f"{stage}={server.url}" for stage, servers in by_stage.items() for server in servers)

    def until_idle(self) -> None:
        for server in (*self.prefill, *self.decode, *self.encode):
            until(f"{server.url} holds nothing", lambda server=server: nothing_left(server))


@contextmanager
def serving(folder: Path, *, role_switch: bool) -> Iterator[tuple[System, Servers]]:
    with ExitStack() as running:
        servers = Servers(running, role_switch=role_switch)
        options = ("--engines", servers.addresses())
        yield running.enter_context(System(folder, policy=POLICY, options=options)), servers


@pytest.fixture(scope="module")
def whole() -> Iterator[list[str]]:
    """What one server says to all bodies."""
    with emulated(EmulatorConfig(kind=Kind.SGLANG, role=Role.AGGREGATED, model="tiny")) as alone:
        yield [alone.chat(body).json()["choices"][0]["message"]["content"] for body in BODIES]


def answers(system: System, rounds: int = 1) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: ask(system, body, timeout_s=60.0), BODIES * rounds))
    assert [answer.status_code for answer in found] == [200] * len(found)
    return [answer.json()["choices"][0]["message"]["content"] for answer in found]


@contextmanager
def load(system: System, whole: list[str]) -> Iterator[None]:
    """Ask again and again until the block ends; every answer is right."""
    ended = False

    def ask_on() -> int:
        rounds = 0
        while not ended:
            assert answers(system) == whole
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        going_on: Future[int] = pool.submit(ask_on)
        try:
            yield
        finally:
            ended = True
        assert going_on.result() > 0


def tell(system: System, name: str, stage: Stage) -> None:
    (system.state / "roles" / name).write_text(stage)


def mode(server: Emulated) -> str:
    (state,) = httpx.get(server.url + "/server_info", trust_env=False).json()["internal_states"]
    return str(state["disaggregation_mode"])


def registered(system: System) -> dict[str, str]:
    """Return the stage of each replica that takes work, by name."""
    client = system.redis()
    found = {}
    for key in client.keys("tercet:replica:*"):
        facts, state = client.hget(key, "facts"), client.hget(key, "state")
        if facts and state == "live":
            found[key.removeprefix("tercet:replica:").partition(".")[0]] = json.loads(facts)["stage"]
    return found


def until_registered(system: System, **stages: str) -> None:
    wanted = {name.replace("_", "-"): stage for name, stage in stages.items()}
    until(f"{wanted} are registered", lambda: wanted.items() <= registered(system).items())


def test_a_replica_changes_its_stage_under_load_and_back_and_every_answer_is_right(
    tmp_path: Path, whole: list[str]
) -> None:
    with serving(tmp_path, role_switch=True) as (system, servers):
        assert answers(system) == whole
        with load(system, whole):
            tell(system, "prefill-0", Stage.DECODE)
            until_registered(system, prefill_0="decode", decode_0="decode")
            assert mode(servers.prefill[0]) == "decode"
            before = servers.prefill[0].state()["fetches"]
            until("it decodes", lambda: servers.prefill[0].state()["fetches"] > before)

            tell(system, "prefill-0", Stage.PREFILL)
            tell(system, "decode-1", Stage.PREFILL)
            until_registered(system, prefill_0="prefill", decode_1="prefill")
            assert (mode(servers.prefill[0]), mode(servers.decode[1])) == ("prefill", "prefill")
            before = servers.decode[1].state()["lease_counts"]["pulled"]
            until("it prefills", lambda: servers.decode[1].state()["lease_counts"]["pulled"] > before)
        servers.until_idle()
        assert "not within" not in system.logs()
        assert [server.state()["failed_fetches"] for server in (*servers.prefill, *servers.decode)] == [0] * 4


class Pods(FakeCluster):
    """A cluster whose pods are the replicas of a system: who is moved is told so by its file.

    As a kubelet sees it: while a worker is started again, its pod is not ready.
    """

    system: System

    def look(self, now_s: float) -> ClusterView:
        there = registered(self.system)
        for name, pod in self.pods.items():
            self.pods[name] = replace(pod, ready=name in there)
        return super().look(now_s)

    def move(self, move: Move, now_s: float) -> None:
        super().move(move, now_s)
        tell(self.system, move.pod, self.pods[move.pod].pool.stage)


class FixedCounts:
    """`ServicePolicy` of fixed counts of replicas that may change roles."""

    model = "tiny"

    def __init__(self) -> None:
        self.prefill, self.decode = 2, 2

    def current(self) -> ControlPolicy:
        params = SwitchingParams(encode=1, prefill=self.prefill, decode=self.decode)
        return replace(policy(hardware=("a100",)), params=params)


def pods_of(system: System) -> Pods:
    pools = {stage: Pool("s", stage, "a100") for stage in Stage}
    pods = {
        name: Pod(name=name, pool=pools[Stage(stage)], tp=1, gated=False, node_id="here", movable=True)
        for name, stage in registered(system).items()
    }
    counts = {pool: sum(pod.pool == pool for pod in pods.values()) for pool in pools.values()}
    here = Node(node_id="here", hardware="a100", accelerators=8)
    made = Pods(nodes=(here,), tp=dict.fromkeys(counts, 1), movable=True, counts=counts, pods=pods)
    made.system = system
    made.settle()
    return made


def test_the_controller_has_a_replica_change_where_one_stage_has_too_much(
    tmp_path: Path, whole: list[str]
) -> None:
    """From the decision to the answers, under load; its pods are the only thing that is not real."""
    with serving(tmp_path, role_switch=True) as (system, servers):
        until("all are registered", lambda: len(registered(system)) == 5)
        cluster, counts = pods_of(system), FixedCounts()

        async def control() -> None:
            async with asyncio.timeout(60.0):
                client = connect(system.supervisor()["redis_url"])
                services = cast("dict[str, ServicePolicy]", {"s": counts})
                controller = Controller(cluster, [RedisLedger(client)], services, steady_unix_s())
                await controller.tick()
                counts.prefill, counts.decode = 1, 3
                while True:
                    decision = await controller.tick()
                    cluster.settle()
                    stages = decision.signals["s"].stages
                    if (stages[Stage.PREFILL].ready, stages[Stage.DECODE].ready) == (1, 3):
                        break
                    await asyncio.sleep(0.25)
                await client.aclose()

        with load(system, whole):
            asyncio.run(control())
            (changed,) = [name for name, stage in registered(system).items() if not name.startswith(stage)]
            server = servers.prefill[int(changed.removeprefix("prefill-"))]
            assert mode(server) == "decode"
            before = server.state()["fetches"]
            until("it decodes", lambda: server.state()["fetches"] > before)
        assert sorted(cluster.pods) == sorted(registered(system)), "nobody has gone, and nobody has come"
        servers.until_idle()


def test_one_whose_server_does_not_change_goes_on_as_it_began(tmp_path: Path, whole: list[str]) -> None:
    with serving(tmp_path, role_switch=False) as (system, servers):
        with load(system, whole):
            tell(system, "prefill-0", Stage.DECODE)
            role = system.state / "roles" / "prefill-0"
            until("it was refused", lambda: role.read_text().strip() == "prefill")
            until_registered(system, prefill_0="prefill")
        assert "has no --enable-pd-role-switch" in system.logs()
        assert answers(system) == whole
        servers.until_idle()
