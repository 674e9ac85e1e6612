"""Profiles of models and facts of hardware: data files to the values that the core decides with.

`data/profiles/SOURCES.md` explains the format, where its figures are from and how far off they may be.
"""

from orchestrator.profiles.accelerators import load_accelerators
from orchestrator.profiles.links import Links, load_links
from orchestrator.profiles.load import (
    NoProfileError,
    find_profile,
    load_profile,
    parse_profile,
    profile_path,
    read_profile,
)
from orchestrator.profiles.paths import DATA

__all__ = [
    "DATA",
    "Links",
    "NoProfileError",
    "find_profile",
    "load_accelerators",
    "load_links",
    "load_profile",
    "parse_profile",
    "profile_path",
    "read_profile",
]
