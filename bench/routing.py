"""`routing`: what routing is worth: goodput of one burst on 16 emulated replicas, by who routes it.

Each contender is alone with the engines while it is measured, and begins with nothing known. The engines take
the time of a profile, so that they sleep and the cores are free for what is in front of them.
"""

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import uvloop

from bench import fronts
from bench.burst import IMAGE_TOKENS, MODEL, PROFILE, TPOT_S, TTFT_S, WHERE, Ask, burst
from bench.played import Played, play
from bench.processes import Processes, wait_until
from bench.report import Figure, Say, against, figure
from bench.routing_report import table

LAYOUTS: Mapping[str, Mapping[str, int]] = {
    "whole": {"aggregated": 16},
    "pd": {"prefill": 14, "decode": 2},
    "epd": {"encode": 7, "prefill": 7, "decode": 2},
}
"""Roles of 16 replicas: each does all; images are prefill's; or they have replicas of their own."""
_SPLITS = {
    "whole": "{encode_from: null, prefill_from: null}",
    "pd": "{encode_from: null}",
    "epd": "{}",
}
_ALIKE = ("round_robin", "random", "power_of_two", "cache_aware")
_POLICIES: Mapping[str, Sequence[str]] = {
    "vllm-router": (*_ALIKE, "consistent_hash", "sticky_least_loaded"),
    "sglang-router": (*_ALIKE, "manual"),
}
"""All that they have, but for vllm-router's kv_aware, which wants events that emulated engines lack."""
_FLAGS = {"manual": ("--assignment-mode", "min_load")}
_WITH_PD = ("vllm-router",)
"""SGLang's prefill and decode meet by fields of its own."""

_POLICY = f"""\
apiVersion: tercet/v1
service: burst
model: {{name: {MODEL}, kappa: 1, max_context: 32768}}
stages:
  encode:  {{engine: vllm, hardware: [{WHERE.hardware}], batch: 1}}
  prefill: {{engine: vllm, hardware: [{WHERE.hardware}], batch: 2, max: 16}}
  decode:  {{engine: vllm, hardware: [{WHERE.hardware}], batch: 96, max: 16}}
admission: {{queue_s: 10}}
slo: {{ttft_s: {TTFT_S}, tpot_s: {TPOT_S}}}
scaling: {{policy: static}}
"""
"""That of policies/internvl-26b.yaml, on one A100 a replica, which a prompt or two keep busy."""

_IDLE_S = 300.0
_BURST_S, _RATE = (130.0, 170.0), 2.0
"""Seconds of the trace in which its rate doubles; each of its requests comes twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contender:
    """Who routes, on which layout.

    Attributes:
        front: "tercet", or a router of others with one of its policies.
    """

    layout: str
    front: str
    policy: str = ""

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.layout, self.front, self.policy)))


@dataclass(slots=True)
class _Seen:
    """What was seen of a contender, by round.

    Attributes:
        cores: That the processes in front of the engines kept busy.
        late: Seconds by which engines ran behind the profile for each second of the burst, all together.
    """

    played: list[Played] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


def run(say: Say, quick: bool) -> list[Figure]:
    """Play the burst for each contender, in another order each round."""
    rounds, (start_s, end_s) = (2, (140.0, 160.0)) if quick else (3, _BURST_S)
    contenders = list(_contenders(say))
    seen: dict[str, _Seen] = defaultdict(_Seen)
    with tempfile.TemporaryDirectory(prefix="tercet-bench-") as name, Processes(Path(name)) as processes:
        say("starting 48 engines")
        engines = {layout: _engines(layout, processes, Path(name)) for layout in LAYOUTS}
        for number in range(rounds):
            asks = burst(start_s, end_s, _RATE, seed=number)
            random.Random(number).shuffle(contenders)
            for contender in contenders:
                there = engines[contender.layout]
                with _started(contender, there, Path(name) / str(number)) as front:
                    _measure(front, list(chain(*there.values())), asks, seen[contender.name])
                found = seen[contender.name].played[-1]
                say(f"round {number + 1}/{rounds}, seed {number}: {contender.name} {found.attained():.1%}")
    figures = _figures(seen)
    print(table(figures))
    return figures


def _contenders(say: Say) -> Iterator[_Contender]:
    yield from (_Contender(layout=layout, front="tercet") for layout in LAYOUTS)
    for router in filter(lambda each: fronts.installed(each, say), _POLICIES):
        for layout in ("whole", *(["pd"] if router in _WITH_PD else [])):
            yield from (
                _Contender(layout=layout, front=router, policy=policy) for policy in _POLICIES[router]
            )


def _engines(layout: str, processes: Processes, folder: Path) -> dict[str, list[str]]:
    """Start a layout's engines; return their addresses by role."""
    timed = ("--profile", PROFILE, "--hardware", f"{WHERE.hardware}x{WHERE.tp}")
    served = ("--model", MODEL, "--image-tokens", str(IMAGE_TOKENS), "--ec-dir", str(folder / layout))
    started = {
        role: [fronts.engine(processes, f"{layout}-{role}-{n}", role, *timed, *served) for n in range(count)]
        for role, count in LAYOUTS[layout].items()
    }
    fronts.wait_for(chain.from_iterable(started.values()))
    return started


@contextmanager
def _started(
    contender: _Contender, engines: Mapping[str, Sequence[str]], folder: Path
) -> Iterator[tuple[int, int]]:
    """Run a contender; yield its port and the process above all of its processes."""
    folder = folder / contender.name
    folder.mkdir(parents=True)
    with Processes(folder) as processes:
        if contender.front == "tercet":
            port = _tercet(contender, engines, folder, processes)
        else:
            port = _router(contender, engines, processes)
        yield port, processes.pid(contender.name)


def _tercet(
    contender: _Contender, engines: Mapping[str, Sequence[str]], folder: Path, processes: Processes
) -> int:
    policy = folder / "policy.yaml"
    policy.write_text(f"{_POLICY}split: {_SPLITS[contender.layout]}\n")
    addresses = [
        f"{'decode' if role == 'aggregated' else role}={url}"
        for role, urls in engines.items()
        for url in urls
    ]
    options = ("--policy", str(policy), "--engines", ",".join(addresses))
    return fronts.tercet(processes, contender.name, folder, *options)


def _router(contender: _Contender, engines: Mapping[str, Sequence[str]], processes: Processes) -> int:
    if contender.layout == "pd":
        pairs = [part for role, urls in engines.items() for url in urls for part in (f"--{role}", url)]
        workers = ["--vllm-pd-disaggregation", *pairs, "--kv-connector", "nixl"]
    else:
        workers = ["--worker-urls", *engines["aggregated"]]
    options = ["--policy", contender.policy, *_FLAGS.get(contender.policy, ()), *workers]
    return fronts.router(processes, contender.name, contender.front, MODEL, options)


def _measure(front: tuple[int, int], engines: Sequence[str], asks: Sequence[Ask], seen: _Seen) -> None:
    """Play a burst against a contender; return when the engines have nothing left to do."""
    port, root = front
    before, began_s, late_s = fronts.cpu_s(root), time.monotonic(), _late_s(engines)
    played = uvloop.run(play(port, asks))
    took_s = time.monotonic() - began_s
    seen.played.append(played)
    seen.cores.append((fronts.cpu_s(root) - before) / took_s)
    wait_until("engines are idle", lambda: not any(_busy(_state(url)) for url in engines), _IDLE_S)
    seen.late.append((_late_s(engines) - late_s) / len(engines) / took_s)


def _state(url: str) -> dict[str, Any]:
    with urlopen(f"{url}/emulator/state", timeout=10) as answer:
        return dict(msgspec.json.decode(answer.read()))


def _busy(state: Mapping[str, Any]) -> int:
    return int(state["running"] + state["waiting"] + state["fetching"])


def _late_s(engines: Sequence[str]) -> float:
    return sum(float(_state(url)["late_s"]) for url in engines)


def _figures(seen: Mapping[str, _Seen]) -> list[Figure]:
    found: list[Figure] = []
    for name in sorted(seen):
        each, at = seen[name], f"routing.{name}"
        found += [
            figure(f"{at}.goodput", [played.per_s for played in each.played], "req/s"),
            figure(f"{at}.attained", [played.attained() for played in each.played], ""),
            figure(f"{at}.attained.image", [played.attained(images=True) for played in each.played], ""),
            figure(f"{at}.attained.text", [played.attained(images=False) for played in each.played], ""),
            figure(f"{at}.lost", [played.lost for played in each.played], ""),
            figure(f"{at}.ttft.p50", [played.ttft_s(0.5) for played in each.played], "s"),
            figure(f"{at}.ttft.p99", [played.ttft_s(0.99) for played in each.played], "s"),
            figure(f"{at}.tpot.p99", [1e3 * played.tpot_s(0.99) for played in each.played], "ms"),
            figure(f"{at}.cores", each.cores, "cores"),
            figure(f"{at}.late", each.late, ""),
        ]
    return found + [_ratio(name, seen) for name in sorted(seen) if not name.endswith("tercet")]


def _ratio(name: str, seen: Mapping[str, _Seen]) -> Figure:
    """Return a peer's goodput as a part of Tercet's on the same layout."""
    ours, other = (seen[each].played for each in (f"{name.partition('.')[0]}.tercet", name))
    goodput = [played.per_s for played in other], [played.per_s for played in ours]
    return against(f"routing.{name}.goodput/tercet", goodput[0], "tercet", goodput[1], "req/s", "<= 1")
