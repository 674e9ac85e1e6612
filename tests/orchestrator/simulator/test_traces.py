"""Published traces are read as they are; anything else is repaired, or named with its row and column."""

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.load import TRACES
from orchestrator.simulator.trace_file import TraceError
from orchestrator.simulator.traces import read_trace

HEADER = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
ROWS = "2024-10-16T08:36:32.709Z,1,3324,170\n2024-10-16T08:36:34.209Z,0,852,54\n"

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        file = tmp_path / "trace.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


@pytest.mark.parametrize(
    ("name", "requests", "image_requests", "first", "last"),
    [
        ("azure_lmm_window_2024-10-16.csv", 2_000, 1_434, (1, 3324, 170), (1, 1457, 29)),
        ("azure_llm_2023_conv.csv.gz", 19_366, 0, (0, 374, 44), (0, 197, 183)),
        ("azure_llm_2023_code.csv.gz", 8_819, 0, (0, 4808, 10), None),
        ("mooncake_conversation_trace.jsonl.gz", 12_031, 0, (0, 6758, 500), (0, 20774, 508)),
    ],
)
def test_shipped_traces(
    name: str, requests: int, image_requests: int, first: tuple[int, ...], last: tuple[int, ...] | None
) -> None:
    load, _ = read_trace(TRACES / name)
    assert (len(load), np.count_nonzero(load.images), load.label) == (requests, image_requests, "real")
    for place, expected in ((0, first), (-1, last)):
        row = (load.images[place], load.context_tokens[place], load.output_tokens[place])
        assert expected in (None, row)


def test_mooncake_prefixes_are_blocks_of_512_tokens() -> None:
    load, _ = read_trace(TRACES / "mooncake_conversation_trace.jsonl.gz")
    assert load.prefix_blocks is not None
    assert load.prefix_blocks.block_tokens == 512
    assert load.prefix_blocks.of(0).tolist() == list(range(14))
    assert load.prefix_blocks.of(1).tolist() == [0, *range(14, 28)]
    lengths = np.diff(load.prefix_blocks.offsets)
    assert np.all(lengths == -(-load.context_tokens // 512))


def test_times_are_seconds_from_the_first_arrival(write: Write) -> None:
    load, notes = read_trace(write(HEADER + ROWS))
    assert load.arrival_s.tolist() == [0.0, 1.5]
    assert load.epoch_s == pytest.approx(1729067792.709)
    assert load.span_s == 3.0  # one mean gap after the last
    assert not notes


@pytest.mark.parametrize(
    ("content", "note"),
    [
        pytest.param((HEADER + ROWS).encode("utf-8-sig"), "", id="utf-8-bom"),
        pytest.param((HEADER + ROWS).encode("utf-16"), "read as UTF-16", id="utf-16"),
        pytest.param((HEADER + ROWS).encode("utf-16-be"), "without a byte order mark", id="utf-16-be"),
        pytest.param(("# año\n" + HEADER + ROWS).encode("latin-1"), "read as Latin-1", id="latin-1"),
        pytest.param(gzip.compress((HEADER + ROWS).encode()), "", id="gzip-by-content"),
        pytest.param((HEADER + ROWS).replace("\n", "\r\n"), "", id="crlf"),
        pytest.param((HEADER + ROWS).rstrip(), "", id="no-last-newline"),
        pytest.param(HEADER.lower() + "\n" + ROWS, "", id="lower-case-and-blank-line"),
        pytest.param((HEADER + ROWS).replace("Z", "+02:00"), "", id="zone"),
        pytest.param((HEADER + ROWS).replace("Z", "").replace("T08", " 08"), "", id="no-zone"),
        pytest.param((HEADER + ROWS).replace("170\n", '"170",extra\n'), "", id="quotes-and-more-columns"),
        pytest.param(HEADER + "".join(reversed(ROWS.splitlines(True))), "sorted 1 rows", id="unsorted"),
    ],
)
def test_forms_that_are_read_alike(write: Write, content: str | bytes, note: str) -> None:
    load, notes = read_trace(write(content))
    assert load.arrival_s.tolist() == [0.0, 1.5]
    assert load.images.tolist() == [1, 0]
    assert load.context_tokens.tolist() == [3324, 852]
    assert load.output_tokens.tolist() == [170, 54]
    assert (note in "; ".join(notes)) if note else not notes


def test_equal_times_stay_in_the_order_of_the_file(write: Write) -> None:
    """Duplicate times are legal: 98 of the 2,000 rows of the real window have one."""
    row = "2024-10-16T08:36:32.709Z,0,{},1\n"
    load, notes = read_trace(write(HEADER + row.format(3) + row.format(1) + row.format(2)))
    assert load.context_tokens.tolist() == [3, 1, 2]
    assert notes == ("2 requests arrive together with the one before: kept in the order of the file",)


def test_no_tokens_become_one(write: Write) -> None:
    load, notes = read_trace(write((HEADER + ROWS).replace(",170", ",0")))
    assert load.output_tokens.tolist() == [1, 54]
    assert notes == ("GeneratedTokens was 0 in 1 rows: taken as 1",)


@pytest.mark.parametrize(
    ("content", "row", "column", "message"),
    [
        pytest.param("", 0, "", "is empty", id="empty"),
        pytest.param(b"\xef\xbb\xbf \n", 0, "", "is empty", id="only-a-mark"),
        pytest.param(gzip.compress(b""), 0, "", "is empty", id="empty-gzip"),
        pytest.param(HEADER, 0, "", "no requests below the header", id="header-only"),
        pytest.param("# nothing\n", 0, "", "no header", id="comment-only"),
        pytest.param("TIMESTAMP,ContextTokens\n", 1, "GeneratedTokens", "is missing", id="no-column"),
        pytest.param(HEADER.replace("Gen", "Gn") + ROWS, 1, "GeneratedTokens", "`GneratedTokens`", id="typo"),
        pytest.param((HEADER + ROWS).replace(",", ";"), 1, "TIMESTAMP", "with commas", id="semicolons"),
        pytest.param(
            (HEADER + ROWS).replace(",54", ""), 3, "GeneratedTokens", "only 3 cells", id="short-row"
        ),
        pytest.param((HEADER + ROWS).replace("852", "85x"), 3, "ContextTokens", "'85x' is not", id="letters"),
        pytest.param(
            (HEADER + ROWS).replace("852", "8.5"), 3, "ContextTokens", "'8.5' is not", id="fraction"
        ),
        pytest.param((HEADER + ROWS).replace("852", ""), 3, "ContextTokens", "'' is not", id="empty-cell"),
        pytest.param((HEADER + ROWS).replace("852", "9" * 20), 3, "ContextTokens", "64 bits", id="overflow"),
        pytest.param(
            (HEADER + ROWS).replace("852", "-2"), 3, "ContextTokens", "-2 is negative", id="negative"
        ),
        pytest.param(
            (HEADER + "\n" + ROWS).replace("852", "999999999"),
            4,
            "ContextTokens",
            "absurd",
            id="absurd-after-blank",
        ),
        pytest.param(
            (HEADER + ROWS).replace("Z,0", "Z,-1"), 3, "NumImages", "negative", id="negative-images"
        ),
        pytest.param((HEADER + ROWS).replace("34.209Z", "xx"), 3, "TIMESTAMP", "is not a time", id="no-time"),
        pytest.param((HEADER + ROWS).replace("34.209Z", "34+01:00"), 3, "TIMESTAMP", "zone", id="two-zones"),
        pytest.param((HEADER + ROWS).replace("09Z", "09", 1), 3, "TIMESTAMP", "zone", id="zone-in-one-row"),
        pytest.param(
            (HEADER + ROWS).replace("34.209Z", "34.209"), 3, "TIMESTAMP", "zone", id="no-zone-in-one-row"
        ),
        pytest.param(HEADER + "now,1,1,1\n", 2, "TIMESTAMP", "is not a time", id="now"),
        pytest.param(HEADER + "1729067792,1,1,1\n", 2, "TIMESTAMP", "is not a time", id="number-as-time"),
        pytest.param(HEADER + ",1,1,1\n", 2, "TIMESTAMP", "is not a time", id="empty-time"),
        pytest.param(
            (HEADER + ROWS + ROWS).replace("2024", "1970", 1), 2, "TIMESTAMP", "days long", id="year"
        ),
        pytest.param(gzip.compress((HEADER + ROWS).encode())[:-9], 0, "", "not a whole gzip", id="cut-gzip"),
        pytest.param(b"PK\x03\x04rest", 0, "", "packed with zip", id="zip"),
        pytest.param((HEADER + ROWS).encode("utf-16")[:-1], 0, "", "is not utf-16", id="cut-utf-16"),
        pytest.param('{"timestamp": 0}\n', 1, "", "input_length", id="json-key"),
        pytest.param('\n{"timestamp": 0, "input', 2, "", "is not a request", id="cut-json"),
        pytest.param(
            '{"timestamp": 0, "input_length": -5, "output_length": 1, "hash_ids": []}\n',
            1,
            "input_length",
            "negative",
            id="json-negative",
        ),
    ],
)
def test_what_is_no_trace_is_named_with_its_place(
    write: Write, content: str | bytes, row: int, column: str, message: str
) -> None:
    with pytest.raises(TraceError, match=r".") as caught:
        read_trace(file := write(content))
    error = caught.value
    assert (error.row, error.column) == (row, column)
    assert message in str(error)
    assert str(error).startswith(f"{file}:{row}" if row else str(file))
    assert error.next_step in str(error)
    assert error.next_step


@pytest.mark.parametrize("path", ["missing.csv", "."])
def test_paths_that_are_no_file_are_errors(path: str) -> None:
    with pytest.raises(TraceError):
        read_trace(path)


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: (HEADER + ROWS + text).encode()))
def test_any_bytes_are_a_trace_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(content)
    try:
        load, _ = read_trace(file)
    except TraceError:
        return
    assert len(load)
    assert min(load.context_tokens.min(), load.output_tokens.min()) >= 1


def test_a_million_rows_load_in_seconds(tmp_path: Path) -> None:
    """Bound of 3 s; about 0.8 s are measured, with slack for a busy machine."""
    body = (TRACES / "azure_lmm_window_2024-10-16.csv").read_text().split("\n", 1)[1]
    file = tmp_path / "million.csv"
    file.write_text("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens,SOURCE_ROW\n" + body * 500)
    before_s = time.process_time()
    load, _ = read_trace(file)
    assert len(load) == 1_000_000
    assert time.process_time() - before_s < 3.0
