"""Processes that do not outlive those that started them."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Ask for a signal when the parent ends, even if it is killed outright; to be called in the new process.

    Linux only: elsewhere it does nothing.
    """
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number))
