"""`predict`: the simulator beside live loads that its profile was not fitted to."""

from dataclasses import dataclass, field

from bench.predict_compare import Seen, compare
from bench.predict_report import record, table
from bench.predict_runs import LOADS, MIX, REPLICAS, RESULTS, SEEDS, Live, as_figure, served, simulated
from bench.processes import ROOT
from bench.report import Figure, Say
from cli.pressure.battery import SATURATING
from cli.pressure.measure import Plan, measure, profile_of
from cli.pressure.system import System, started
from orchestrator.control_policy import Hardware
from orchestrator.policy import load_policy
from orchestrator.profiles.pressure import Round
from orchestrator.simulator.workload import Workload

POLICY = ROOT / "policies" / "tiny.yaml"


@dataclass(slots=True, kw_only=True)
class _Runs:
    """Live runs, one of each load after each round of pressure tests: under the same conditions.

    Attributes:
        rate_per_s: Saturated rate of the mix, of the first round.
        seen: By load, in order.
    """

    system: System
    duration_s: float
    say: Say
    rate_per_s: float = 0.0
    seen: dict[float, list[tuple[Seen, Workload]]] = field(
        default_factory=lambda: {load: [] for load in LOADS}
    )

    def after(self, tests: Round) -> None:
        """Run each load once."""
        self.rate_per_s = self.rate_per_s or tests.mixed[-1].rate_per_s
        for load, runs in self.seen.items():
            self.say(f"{load:.0%} of {self.rate_per_s:.0f} requests/s, run {len(runs) + 1}")
            live = Live(port=self.system.port, hops=self.system.hops)
            runs.append(served(live, load * self.rate_per_s, self.duration_s, seed=len(runs)))


def run(say: Say, quick: bool) -> list[Figure]:
    """Measure a profile, running three loads between its rounds; then simulate the same requests."""
    plan = Plan(rounds=1 if quick else 5, starts=1 if quick else 3)
    policy, hardware = load_policy(POLICY), Hardware.load()
    with started(POLICY, REPLICAS) as system:
        runs = _Runs(system=system, duration_s=8.0 if quick else 20.0, say=say)
        keys = measure(system, policy, REPLICAS, plan, MIX, say, runs.after)
    profile = profile_of(keys, hardware)
    say("simulating the same requests")
    rows = []
    for load, seen in runs.seen.items():
        pairs = [(live, simulated(policy, profile, work, hardware)) for live, work in seen]
        rows += compare(load, pairs)
    if not quick:
        record(RESULTS, rows, keys, _facts(runs, plan))
    print(table(rows))
    return [as_figure(row) for row in rows]


def _facts(runs: _Runs, plan: Plan) -> dict[str, float]:
    return {
        "rate": runs.rate_per_s,
        "concurrency": SATURATING,
        "repeats": plan.rounds,
        "duration": runs.duration_s,
        "seeds": SEEDS,
    }
