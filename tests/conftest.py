"""For all tests."""

from hypothesis import settings

# Examples say what holds, not how fast this machine is while others work on it.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
