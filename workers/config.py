"""What one worker process is told at start, as one JSON document."""

import msgspec

from orchestrator.broker import broker_url
from stages.adapters.server import EngineServer
from stages.blob_host import BlobConfig
from stages.epoch import new_epoch
from stages.limits import EngineLimits
from stages.types import Modality, Stage


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """The stages that a replica may be told to do.

    Attributes:
        file: Whose text is the stage that it is to do; may change while it runs.
        slots: By stage; see `WorkerConfig`.
    """

    file: str
    slots: dict[Stage, int]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One replica.

    Attributes:
        name: Stable across restarts; the replica id is `<name>.<epoch>`.
        epoch: New at every boot, so that no process inherits a queue; the process finds one for an empty one.
        stage: That it does, unless `roles` say another.
        slots: Jobs that may be dispatched to the replica at once.
        modalities: What its engine reads besides text; empty for a built-in model, which knows.
        server: The engine, if it is a server of its own.
        roles: Of a replica whose stage may change; None of others.
        labels: Further labels, registered as they are.
        domain: Values of the topology levels, widest first; empty if unknown.
        blobs: A worker that is told to listen keeps its host's store; on the gateway's host none has to.
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
    modalities: tuple[Modality, ...] = ()
    server: EngineServer | None = None
    roles: Roles | None = None
    labels: dict[str, str] = {}
    domain: tuple[str, ...] = ()
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


def read_config(text: str) -> WorkerConfig:
    """Return what a process was told, with an epoch of its own if it was told none.

    A container that is restarted gets the environment of its pod again, which cannot name the boot.

    Raises:
        msgspec.MsgspecError: The text is no configuration.
    """
    config = msgspec.json.decode(text, type=WorkerConfig)
    return msgspec.structs.replace(config, epoch=config.epoch or new_epoch())
