"""The router's guess of what each prefill replica has cached."""

from orchestrator.prefix_index import PrefixIndex


def test_the_leading_blocks_in_common_are_counted_in_tokens() -> None:
    index = PrefixIndex(8)
    index.record("a", ["x", "y", "z"])
    index.record("b", ["x"])
    assert index.match(["x", "y", "other"]) == {"a": 16, "b": 8}
    assert index.match(["y", "z"]) == {"a": 16}  # names are chained, so this cannot happen to real ones
    assert index.match(["other"]) == {}


def test_replicas_that_are_gone_are_forgotten() -> None:
    index = PrefixIndex(8)
    index.record("a", ["x"])
    index.keep_only(["b"])
    assert index.match(["x"]) == {}


def test_the_oldest_blocks_make_room() -> None:
    index = PrefixIndex(8)
    index.record("a", ["first"])
    index.record("a", [str(number) for number in range(5000)])
    assert index.match(["first"]) == {}
    assert index.match(["4999"]) == {"a": 8}
