"""`python -m bench [NAME...]`: run benchmarks, print their figures, write them as JSON."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bench import (
    cluster,
    decide,
    engine,
    hops,
    itl,
    memory,
    place,
    predict,
    predict_clocked,
    ready,
    routers,
    routing,
    simulator,
    tiny,
)
from bench.report import Figure, Say, as_json, line

BENCHMARKS: Mapping[str, Callable[[Say, bool], list[Figure]]] = {
    "hops": hops.run,
    "itl": itl.run,
    "tiny": tiny.run,
    "memory": memory.run,
    "ready": ready.run,
    "routers": routers.run,
    "routing": routing.run,
    "engine": engine.run,
    "simulator": simulator.run,
    "decide": decide.run,
    "place": place.run,
    "predict": predict.run,
    "predict-clocked": predict_clocked.run,
    "cluster": cluster.run,
}
ASKED_FOR = ("cluster",)
"""Not run unless named: they need programs that take minutes to build."""


def main() -> int:
    """Run what was asked for; returns 0 if every goal was met, 1 otherwise, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = f"of {', '.join(BENCHMARKS)}; by default all but {', '.join(ASKED_FOR)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=known)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter windows")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    figures: list[Figure] = []
    try:
        for name in options.names or [name for name in BENCHMARKS if name not in ASKED_FOR]:
            found = BENCHMARKS[name](partial(_say, name), options.quick)
            print("\n".join(map(line, found)), flush=True)
            figures += found
    except KeyboardInterrupt:
        print("stopped; everything that was started has ended", file=sys.stderr)
        return 130
    finally:
        if options.json:
            options.json.write_text(json.dumps(as_json(figures), indent=2) + "\n")
    return 1 if any(figure.met is False for figure in figures) else 0


def _say(name: str, text: str) -> None:
    print(f"{name}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
