"""What one worker process is told at start, as one JSON document."""

from pathlib import Path

import msgspec

from orchestrator.broker import broker_url
from stages.blobs import BlobSettings
from stages.limits import EngineLimits
from stages.types import Stage


class BlobConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the blob store is; see `stages.blobs`."""

    directory: str
    store_id: str = ""
    inline_bytes: int = 8_192
    quota_bytes: int = 2_000_000_000
    token: str = ""
    public_url: str = ""

    def settings(self) -> BlobSettings:
        """Return what the store takes."""
        return BlobSettings(
            dir=Path(self.directory),
            store_id=self.store_id,
            inline_bytes=self.inline_bytes,
            quota_bytes=self.quota_bytes,
            token=self.token,
            public_url=self.public_url or None,
        )


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One replica.

    Attributes:
        name: Stable across restarts; the replica id is `<name>.<epoch>`.
        epoch: New at every boot, so that no process inherits a queue.
        slots: Jobs that may be dispatched to the replica at once.
        labels: Further labels, registered as they are.
        domain: Values of the topology levels, widest first.
        blob_listen: `host:port` on which this process serves its host's blobs, empty for none.
        hang_s: A step that runs longer ends the process.
        grace_s: Seconds that a drain may take before the rest is given up to other replicas.
    """

    name: str
    epoch: str
    stage: Stage
    model: str
    redis_url: str
    slots: int
    blobs: BlobConfig
    limits: EngineLimits = EngineLimits()
    hardware: str = "cpu"
    labels: dict[str, str] = {}
    domain: tuple[str, ...] = ()
    blob_listen: str = ""
    hang_s: float = 20.0
    grace_s: float = 30.0
    log_level: str = "info"

    @property
    def broker_url(self) -> str:
        """The same Redis in kombu's spelling."""
        return broker_url(self.redis_url)

    @property
    def replica_id(self) -> str:
        """Name of this boot of the replica."""
        return f"{self.name}.{self.epoch}"
