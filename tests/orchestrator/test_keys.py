"""Who may call, and how far they may push themselves forward."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.keys import ApiKey, ApiKeys, load_keys

PLAIN = ApiKey(name="plain", secret="plain-key-0123456789")
URGENT = ApiKey(name="urgent", secret="ürgent-key-0123456789", max_priority=100)
KEYS = ApiKeys((PLAIN, URGENT))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Bearer plain-key-0123456789", PLAIN),
        ("bearer plain-key-0123456789", PLAIN),
        ("BEARER  plain-key-0123456789 ", PLAIN),
        ("Bearer plain-key-012345678", None),
        ("Bearer plain-key-01234567890", None),
        ("Bearer PLAIN-KEY-0123456789", None),
        ("plain-key-0123456789", None),
        ("Basic plain-key-0123456789", None),
        ("Bearer ", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_whole_bearer_key_is_known(header: str | None, found: ApiKey | None) -> None:
    assert KEYS.check(header) is found


@given(st.text())
def test_any_header_is_answered(header: str) -> None:
    assert ApiKeys((PLAIN,)).check(header) in (None, PLAIN)


def test_a_file_of_keys_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(
        "- {name: a, key: 0123456789abcdef-a}\n- {name: b, key: 0123456789abcdef-b, max_priority: 7}"
    )
    keys = load_keys(file)
    first, second = keys.check("Bearer 0123456789abcdef-a"), keys.check("Bearer 0123456789abcdef-b")
    assert first
    assert second
    assert (first.name, first.max_priority, second.name, second.max_priority) == ("a", 0, "b", 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a list"),
        ("[]", "expected a list"),
        ("{name: a}", "expected a list"),
        ("- a", "entry 1: allowed keys"),
        ("- {name: a, key: 0123456789abcdef, colour: red}", "entry 1: allowed keys"),
        ("- {name: a}", "entry 1: name and a key of at least 16 characters"),
        ("- {name: a, key: short}", "entry 1: name and a key of at least 16 characters"),
        ("- {name: a, key: 1234567890123456}", "entry 1: name and a key"),
        ("- {name: a, key: 0123456789abcdef-a, max_priority: 101}", "entry 1: max_priority"),
        ("- {name: a, key: 0123456789abcdef-a, max_priority: high}", "entry 1: max_priority"),
        (
            "- {name: a, key: 0123456789abcdef-a}\n- {name: b, key: 0123456789abcdef-a}",
            "entry 2: the key of entry 1 again",
        ),
        ("- {name: a, key: [", "no YAML"),
    ],
)
def test_a_wrong_file_is_refused_without_its_keys(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told) as failure:
        load_keys(file)
    assert "keys.yaml" in str(failure.value)
    assert "0123456789abcdef-a" not in str(failure.value)


def test_a_key_is_not_in_its_repr() -> None:
    assert "0123456789" not in repr(PLAIN)
