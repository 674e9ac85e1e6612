"""One worker process: `python -m workers` with its configuration as JSON in TERCET_WORKER."""

import os

# One engine thread per process: BLAS threads would fight over the cores and change the bits.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import faulthandler
import logging
import signal
import socket
import time
from dataclasses import replace

from orchestrator.logs import configure_logs
from stages.blob_host import BlobKeeper
from stages.blobs import BlobStore, open_store
from stages.engines import EXIT_ROLE_REFUSED, RoleRefused
from stages.models import AnyEngine, build_engine, front
from workers.config import WorkerConfig, read_config
from workers.replica import STOP_SIGNALS, Replica
from workers.roles import as_told, peers

log = logging.getLogger(__name__)


def facts(config: WorkerConfig, kv_bytes: int) -> dict[str, object]:
    """Return what the registry says of this replica for as long as it lives."""
    return {
        "stage": config.stage,
        "model": config.model,
        "modalities": sorted(config.modalities or front(config.model).modalities),
        "hardware": config.hardware,
        "domain": config.domain,
        "labels": config.labels,
        "kv_bytes": kv_bytes,
        "peer_url": config.server.peer_url if config.server else "",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_unix_s": time.time(),
    }


def engine_of(config: WorkerConfig, store: BlobStore) -> AnyEngine:
    """Return the replica's engine, once it is ready."""
    if config.server is None:
        return build_engine(config.model, config.stage, store, config.limits)
    from stages.adapters.build import server_engine  # here, so that built-in engines load no HTTP client

    server = replace(config.server, peers=peers(config))
    return server_engine(server, config.stage, store, config.limits)


def main() -> int:
    """Serve until drained, fenced, or told to do another stage."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # before there is any other thread
    faulthandler.enable()  # a crash in native code leaves its stacks in the log
    config = as_told(read_config(os.environ["TERCET_WORKER"]))
    configure_logs(config.log_level, process="worker", replica=config.replica_id)
    logging.getLogger("celery").setLevel(logging.WARNING)  # its lines hold whole jobs: clients' prompts
    store = open_store(config.blobs.settings())
    if config.blobs.listen:
        BlobKeeper(store, config.blobs).start()
    try:
        engine = engine_of(config, store)
    except RoleRefused as error:
        log.critical("%s", error)
        return EXIT_ROLE_REFUSED
    return Replica(config, engine, facts(config, engine.load().total_kv_bytes), store.release).run()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # the interpreter's own way out would wait for idle pool threads
