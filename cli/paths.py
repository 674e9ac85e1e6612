"""Where things lie."""

import os
from pathlib import Path

POLICIES = Path(__file__).resolve().parent.parent / "policies"
TRACES = POLICIES.parent / "data" / "traces"


def state_home(port: int) -> Path:
    """Return the default state folder of the system on a port."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "tercet" / str(port)
