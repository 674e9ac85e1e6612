"""What the loader of data files says of a file that does not follow its format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.yaml_fields import STRICT, InfeasibleError, NotNegative
from orchestrator.yaml_file import FileError, load_yaml, valid_keys


@dataclass(frozen=True, kw_only=True)
class Price:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["price"]
    usd: NotNegative
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Free:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["free"]


@dataclass(frozen=True, kw_only=True)
class Shelf:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    apples: Mapping[str, Annotated[Price | Free, Field(discriminator="kind")]]
    notes: tuple[Price, ...] = ()


ADAPTER = TypeAdapter(Shelf)


def problems(text, check=lambda _: ()):
    with pytest.raises(FileError) as caught:
        load_yaml(ADAPTER, text, "s.yaml", check)
    return [str(problem) for problem in caught.value.problems]


def test_a_file_that_follows_the_format_is_its_value():
    shelf = load_yaml(ADAPTER, "apples: {a: {kind: price, usd: 2}, b: {kind: free}}", "s.yaml")
    assert shelf == Shelf(apples={"a": Price(kind="price", usd=2.0), "b": Free(kind="free")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "apples: {a: {kind: price, usdd: 2, usd: 2}}",
            "s.yaml:1:27: `apples.a.usdd`: unknown key; did you mean `usd`?",
            id="unknown-under-a-free-key",
        ),
        pytest.param(
            "apples: {}\nnotes: [{kind: price, usd: 1, sorce: x}]",
            "s.yaml:2:31: `notes.0.sorce`: unknown key; did you mean `source`?",
            id="unknown-in-a-list",
        ),
        pytest.param(
            "apples: {}\nusd: 1",
            "s.yaml:2:1: `usd`: unknown key; it is known as `apples.*.usd`, `notes.*.usd`",
            id="known-elsewhere",
        ),
        pytest.param(
            "apples: {a: {kind: price}}", "s.yaml:1:13: `apples.a.usd`: is missing", id="missing-in-a-union"
        ),
        pytest.param(
            "apples: {a: {kind: price, usd: -1}}",
            "s.yaml:1:32: `apples.a.usd`: must be greater than or equal to 0",
            id="out-of-range-in-a-union",
        ),
    ],
)
def test_problems_name_the_place_in_the_file(text, expected):
    assert problems(text) == [expected]


def test_what_a_check_finds_is_a_problem_at_its_key():
    def check(shelf):
        yield InfeasibleError("no rotten ones", "apples", "a", "usd")
        yield InfeasibleError("no bananas", "bananas")

    assert problems("apples:\n  a: {kind: price, usd: 2}", check) == [
        "s.yaml:1:1: `bananas`: no bananas",
        "s.yaml:2:25: `apples.a.usd`: no rotten ones",
    ]


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ((), ["apples", "notes"]),
        (("apples",), []),
        (("apples", "any"), ["kind", "usd", "source"]),
        (("notes", 0), ["kind", "usd", "source"]),
    ],
)
def test_valid_keys(section, keys):
    assert valid_keys(ADAPTER, section) == keys
