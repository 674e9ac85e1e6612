"""Reference arithmetic and whole-stage helpers for SmolLM2's tests."""

import pytest

from stages.smollm2.model import language_model
from stages.smollm2.prepare import prepare


@pytest.fixture(scope="session")
def model():
    """The decoder on the shared core."""
    return language_model(prepare())
