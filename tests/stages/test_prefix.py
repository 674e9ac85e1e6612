"""Block names are equal exactly where tokens and media are equal from the start."""

import subprocess
import sys
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stages.prefix import BLOCK_TOKENS, block_hashes
from stages.types import MediaSpan, Prompt

IDS = st.lists(st.integers(0, 3), max_size=60).map(tuple)


@given(IDS, IDS)
def test_equal_names_mean_equal_tokens(a, b):
    names_a, names_b = (block_hashes(Prompt(token_ids=ids)) for ids in (a, b))
    for index, (x, y) in enumerate(zip(names_a, names_b, strict=False), 1):
        assert (x == y) == (a[: index * BLOCK_TOKENS] == b[: index * BLOCK_TOKENS])


@given(IDS)
def test_only_whole_blocks_have_names(ids):
    assert len(block_hashes(Prompt(token_ids=ids))) == len(ids) // BLOCK_TOKENS


def test_media_change_the_names_from_their_place_on():
    span = MediaSpan(offset=9, length=9, content_hash="a")
    prompt = Prompt(token_ids=(3,) * 30, media=(span,))
    names = block_hashes(prompt)
    for other in (replace(span, content_hash="b"), replace(span, offset=10), replace(span, length=8)):
        changed = block_hashes(replace(prompt, media=(other,)))
        assert changed[0] == names[0]
        assert not set(changed[1:]) & set(names[1:])


def test_names_do_not_depend_on_the_process():
    code = (
        "from stages.prefix import block_hashes; from stages.types import Prompt; import sys;"
        "print(block_hashes(Prompt(token_ids=tuple(range(8))))[0], 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [block_hashes(Prompt(token_ids=tuple(range(8))))[0], "False"]
