"""Request traces as Mooncake publishes them: one JSON object a line."""

from collections.abc import Sequence
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np

from orchestrator.simulator.trace_file import RawTrace, TraceError, TraceText
from orchestrator.simulator.workload import PrefixBlocks

BLOCK_TOKENS = 512  # kvcache-ai/Mooncake, FAST25-release: "hash_ids … block size 512"
_COLUMNS = {
    "time_s": "timestamp",
    "images": "images",
    "context_tokens": "input_length",
    "output_tokens": "output_length",
}


_Count = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]  # what is absurd within it is said later
_Block = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Row(msgspec.Struct, gc=False):
    timestamp: Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
    input_length: _Count
    output_length: _Count
    hash_ids: tuple[_Block, ...] = ()


def read_json_lines(text: TraceText) -> RawTrace:
    """Return the requests of a Mooncake trace, rows as they are.

    Keys: timestamp (ms since the start), input_length and output_length (tokens) and hash_ids (one per block
    of 512 tokens, equal for equal prefixes); others are ignored. There are no images.

    Raises:
        TraceError: A line is not such an object.
    """
    numbers, rows = _rows(text)
    time_s = np.array([row.timestamp for row in rows]) / 1000.0
    return RawTrace(
        file=text.file,
        columns=_COLUMNS,
        row_of=lambda index: numbers[index],
        time_s=time_s - time_s.min(),
        epoch_s=0.0,
        images=np.zeros(len(rows), dtype=np.int64),
        context_tokens=np.array([row.input_length for row in rows], dtype=np.int64),
        output_tokens=np.array([row.output_length for row in rows], dtype=np.int64),
        prefix_blocks=_blocks(rows),
    )


def _rows(text: TraceText) -> tuple[Sequence[int], Sequence[_Row]]:
    decode = msgspec.json.Decoder(_Row).decode
    numbers: list[int] = []
    rows: list[_Row] = []
    for number, line in enumerate(text.lines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(decode(line.strip()))
        except msgspec.MsgspecError as error:
            step = "correct or delete the line"
            raise TraceError(text.file, f"is not a request: {error}", step, row=number) from None
        numbers.append(number)
    return numbers, rows


def _blocks(rows: Sequence[_Row]) -> PrefixBlocks:
    lengths = [len(row.hash_ids) for row in rows]
    ids = np.fromiter(chain.from_iterable(row.hash_ids for row in rows), dtype=np.int32, count=sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return PrefixBlocks(offsets=offsets, ids=ids, block_tokens=BLOCK_TOKENS)
