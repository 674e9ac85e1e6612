"""Names that tell one boot of a process from the next."""

import secrets
import time


def new_epoch() -> str:
    """Return a name that no other boot has: the second, and chance."""
    return f"{int(time.time()):x}{secrets.token_hex(2)}"
