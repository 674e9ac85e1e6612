"""One gateway process: `python -m orchestrator` with its configuration as JSON in TERCET_GATEWAY."""

import os

import msgspec
import uvloop

from orchestrator.logs import configure_logs
from orchestrator.serve import GatewayConfig, Process


def main() -> None:
    """Serve until told to stop."""
    config = msgspec.json.decode(os.environ["TERCET_GATEWAY"], type=GatewayConfig)
    configure_logs(config.log_level, process="gateway", gateway=config.gateway_id)
    uvloop.run(Process(config).run())


if __name__ == "__main__":
    main()
