"""Profiles of models and facts of accelerators: data files to the values that the core decides with.

`data/profiles/SOURCES.md` explains the format, where its figures are from and how far off they may be.
"""

from orchestrator.profiles.load import DATA, find_profile, load_accelerators, load_profile

__all__ = ["DATA", "find_profile", "load_accelerators", "load_profile"]
