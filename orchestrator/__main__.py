"""One gateway process: `python -m orchestrator` with its configuration as JSON in TERCET_GATEWAY."""

import os

import uvloop

from orchestrator.logs import configure_logs
from orchestrator.serve import Process, read_config


def main() -> None:
    """Serve until told to stop."""
    config = read_config(os.environ["TERCET_GATEWAY"])
    configure_logs(config.log_level, process="gateway", gateway=config.gateway_id)
    uvloop.run(Process(config).run())


if __name__ == "__main__":
    main()
