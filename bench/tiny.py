"""`tiny`: requests per second of the built-in model, one image and at most ten tokens, over HTTP."""

import itertools

import uvloop

from bench.images import digit, question
from bench.load import Window, closed_loop, open_loop
from bench.processes import rss_bytes
from bench.report import Figure, Say, figure, percentile
from bench.stack import stack
from cli.pressure.sse import Client, chat_request

CONCURRENCY = 16
_IMAGES = 1500
_PATIENT_PER_S = 40.0
_RSS_BOUND_MB = 150


def run(say: Say, quick: bool) -> list[Figure]:
    """Serve digits, each image once in a while only, so that no cache answers for the encoder."""
    rounds, duration_s = (2, 3.0) if quick else (5, 8.0)
    say(f"drawing {_IMAGES} images")
    requests = [chat_request(_body(index)) for index in range(_IMAGES)]
    full: list[Window] = []
    calm: list[Window] = []
    # The engines' caches are smaller than the set of images, so that it can come round.
    with stack("tiny", slots=32) as system:
        turn = itertools.cycle(requests)

        async def load(window_s: float, rate_per_s: float) -> Window:
            client = Client(system.port)

            async def send() -> None:
                await client.ask(next(turn))

            try:
                if rate_per_s:
                    return await open_loop(send, rate_per_s, window_s)
                return await closed_loop(send, CONCURRENCY, window_s)
            finally:
                client.close()

        uvloop.run(load(1.5, 0.0))
        for number in range(rounds):
            say(f"round {number + 1}/{rounds}")
            full.append(uvloop.run(load(duration_s, 0.0)))
            calm.append(uvloop.run(load(duration_s, _PATIENT_PER_S)))
        memory = {
            name: rss_bytes(pid) / 1e6 for name, pid in system.processes.pids().items() if name != "redis"
        }
    return [
        figure("tiny.saturation", [window.per_s for window in full], "req/s", goal=">= 100"),
        figure("tiny.saturation.p50", [1e3 * percentile(w.latencies_s, 0.5) for w in full], "ms"),
        figure("tiny.saturation.p99", [1e3 * percentile(w.latencies_s, 0.99) for w in full], "ms"),
        figure(f"tiny.at{_PATIENT_PER_S:g}.p50", [1e3 * percentile(w.latencies_s, 0.5) for w in calm], "ms"),
        figure(f"tiny.at{_PATIENT_PER_S:g}.p99", [1e3 * percentile(w.latencies_s, 0.99) for w in calm], "ms"),
        *(figure(f"tiny.rss.{name}", [mb], "MB", goal=f"<= {_RSS_BOUND_MB}") for name, mb in memory.items()),
    ]


def _body(index: int) -> bytes:
    return question("tiny", "what digit is shown ?", digit(index), max_tokens=10, stream=True)
