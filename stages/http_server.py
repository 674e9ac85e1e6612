"""An HTTP server in a process that has its own mind about signals."""

import contextlib
from collections.abc import Iterator

import uvicorn


class UnsignalledServer(uvicorn.Server):
    """Leaves signals alone: uvicorn would raise them again when it is done, before others have tidied up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield
