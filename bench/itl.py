"""`itl`: the time between tokens that the path adds to an engine, at 32 streams over HTTP."""

import asyncio
import json
import threading
import time
from itertools import pairwise

import uvloop

from bench.images import png, question
from bench.paced import STEP_S, TOKENS_PER_STEP, PacedDecode
from bench.report import Figure, Say, figure, percentile
from bench.stack import stack
from cli.pressure.sse import Answer, Client, chat_request
from stages.types import BlobHandle, DecodeJob, KVRef, Sampling, Stage, TokenChunk

STREAMS = 32
_PACE_S = 0.02


def run(say: Say, quick: bool) -> list[Figure]:
    """Alternate between the engine alone and the engine behind the whole path."""
    rounds, tokens = (2, 100) if quick else (5, 250)
    alone: list[list[float]] = []
    served: list[list[float]] = []
    environment = {STEP_S: str(_PACE_S), TOKENS_PER_STEP: "1"}
    with stack("noop", modules={Stage.DECODE: "bench.paced"}, environment=environment) as system:
        uvloop.run(_served(system.port, 5))
        for number in range(rounds):
            pace = f"{tokens} tokens, one per {_PACE_S * 1e3:g} ms"
            say(f"round {number + 1}/{rounds}: {STREAMS} streams of {pace}")
            alone.append(_alone(tokens))
            served.append(uvloop.run(_served(system.port, tokens)))
    return [
        figure("itl.engine.p50", [1e3 * percentile(gaps, 0.5) for gaps in alone], "ms"),
        figure("itl.engine.p99", [1e3 * percentile(gaps, 0.99) for gaps in alone], "ms"),
        figure("itl.served.p50", [1e3 * percentile(gaps, 0.5) for gaps in served], "ms"),
        figure("itl.served.p99", [1e3 * percentile(gaps, 0.99) for gaps in served], "ms"),
        figure("itl.added.p50", _added_ms(served, alone, 0.5), "ms", goal="<= 2"),
        figure("itl.added.p99", _added_ms(served, alone, 0.99), "ms"),
    ]


def _added_ms(served: list[list[float]], alone: list[list[float]], fraction: float) -> list[float]:
    return [
        1e3 * (percentile(ours, fraction) - percentile(engine, fraction))
        for ours, engine in zip(served, alone, strict=True)
    ]


def _alone(tokens: int) -> list[float]:
    """Return the gaps between the tokens of concurrent streams, in seconds, as the engine emits them."""
    engine = PacedDecode(_PACE_S)
    times: list[list[float]] = [[] for _ in range(STREAMS)]

    def stream(number: int) -> None:
        def emit(chunk: TokenChunk) -> None:
            times[number] += [time.monotonic()] * len(chunk.tokens)

        engine.decode(_job(number, tokens), emit)

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    return _gaps(times)


def _job(number: int, tokens: int) -> DecodeJob:
    nothing = BlobHandle(uri="inline:", sha256="", size_bytes=0, ttl_s=60.0)
    return DecodeJob(
        request_id=f"r{number}",
        hop="decode",
        attempt=1,
        reply_to="",
        model="noop",
        deadline_unix_s=time.time() + 600.0,
        kv=KVRef(blob=nothing, tokens=1, first_token=0),
        sampling=Sampling(max_tokens=tokens),
    )


async def _served(port: int, tokens: int) -> list[float]:
    """Return the gaps between tokens as clients see them."""
    client = Client(port)
    request = chat_request(question("noop", "hello", png(16, 16, 0), max_tokens=tokens, stream=True))
    answers = await asyncio.gather(*(client.ask(request) for _ in range(STREAMS)))
    client.close()
    return _gaps([token_times_s(answer) for answer in answers])


def token_times_s(answer: Answer) -> list[float]:
    """Return when each token came; `noop` says one letter a token."""
    times: list[float] = []
    for read_s, data in answer.reads:
        for line in data.split(b"\n"):
            if line.startswith(b'data: {"'):
                choices = json.loads(line[6:])["choices"]
                text = choices[0]["delta"].get("content") if choices else ""
                times += [read_s] * len(text or "")
    return times


def _gaps(streams: list[list[float]]) -> list[float]:
    return [later - sooner for times in streams for sooner, later in pairwise(times)]
