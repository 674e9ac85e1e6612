"""For all tests."""

from hypothesis import settings

# Examples say what holds, not how fast this machine is while others work on it.
# A default run tries fewer of them than `make test-slow` does, with --hypothesis-profile=thorough.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None)
settings.load_profile("quick")
