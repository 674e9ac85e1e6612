"""`predict-clocked`: the simulator beside live loads on engines that keep an accelerator's pace.

`predict` holds the model of processes that share cores against `tiny` as it is. Here engines take known times
and cores are mostly idle, so that what is held against live loads is what results.md rests on: queues,
routing, chunks, batches.
"""

from bench.clocked import PACE, clocked_profile
from bench.predict_compare import Seen, compare
from bench.predict_report import record_clocked, table
from bench.predict_runs import LOADS, MIX, REPLICAS, RESULTS, SEEDS, Live, as_figure, served, simulated
from bench.processes import ROOT
from bench.report import Figure, Say
from bench.stack import Stack, stack
from cli.pressure.requests import ENDLESS_WORDS
from cli.pressure.system import hops_in
from orchestrator.control_policy import Hardware
from orchestrator.core.capacity import prefill_rate
from orchestrator.core.profile import ModelProfile
from orchestrator.policy import load_policy
from orchestrator.profiles import find_profile
from orchestrator.simulator.workload import Workload
from stages.types import Stage

POLICY = ROOT / "policies" / "tiny.yaml"
_SLOTS = 32


def run(say: Say, quick: bool) -> list[Figure]:
    """Serve three loads several times, and simulate the same requests."""
    repeats, duration_s = (1, 10.0) if quick else (5, 40.0)
    policy, hardware = load_policy(POLICY), Hardware.load()
    profile = clocked_profile(find_profile("tiny"))
    rate_per_s = saturated_per_s(profile)
    seen: dict[float, list[tuple[Seen, Workload]]] = {load: [] for load in LOADS}
    modules = dict.fromkeys(Stage, "bench.clocked")
    with stack("tiny", slots=_SLOTS, replicas=REPLICAS, policy=POLICY, modules=modules) as system:
        live = Live(port=system.port, hops=lambda: _hops(system))
        for number in range(repeats):
            for load, runs in seen.items():
                say(f"{load:.0%} of {rate_per_s:.1f} requests/s, run {number + 1} of {repeats}")
                runs.append(served(live, load * rate_per_s, duration_s, seed=number))
    say("simulating the same requests")
    rows = []
    for load, runs in seen.items():
        rows += compare(load, [(one, simulated(policy, profile, work, hardware)) for one, work in runs])
    if not quick:
        facts = {"rate": rate_per_s, "repeats": repeats, "duration": duration_s, "seeds": SEEDS}
        record_clocked(RESULTS, rows, PACE, facts)
    print(table(rows))
    return [as_figure(row) for row in rows]


def saturated_per_s(profile: ModelProfile) -> float:
    """Return the rate of the mix at which the busiest stage would never be idle."""
    (encode,), (prefill,) = profile.encode, profile.prefill
    images = sum(number * share for number, share in enumerate(MIX.image_shares))
    tokens = sum(MIX.words) / 2.0 + ENDLESS_WORDS + 1.0 + images * profile.image_tokens
    encoded = REPLICAS[Stage.ENCODE] / (images * profile.encode[encode].image_s)
    prefilled = REPLICAS[Stage.PREFILL] * prefill_rate(profile, prefill) / tokens
    return min(encoded, prefilled)


def _hops(system: Stack) -> dict[str, int]:
    names = [f"{stage}-{index}" for stage, count in REPLICAS.items() for index in range(count)]
    return {name: hops_in(system.processes.output(name)) for name in names}
