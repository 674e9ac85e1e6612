"""JSON logs, one object a line, with the request's ids in every line that concerns a request."""

import json
import logging
import sys
import time
from typing import Any

from stages.types import Job

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Renders a record and everything passed as `extra` to one JSON object."""

    def __init__(self, **constant: str) -> None:
        super().__init__()
        self._constant = constant

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._constant,
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logs(level: str = "info", **constant: str) -> None:
    """Send all logs to standard error as JSON lines; `constant` goes into each of them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**constant))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def request_fields(request_id: str, x_request_id: str, traceparent: str) -> dict[str, str]:
    """Return the `extra` of a log line about one request."""
    fields = {"request_id": request_id, "x_request_id": x_request_id, "traceparent": traceparent}
    return {name: value for name, value in fields.items() if value}


def job_fields(job: Job) -> dict[str, str | int]:
    """Return the `extra` of a log line about one attempt."""
    fields = request_fields(job.request_id, job.x_request_id, job.traceparent)
    return {**fields, "hop": job.hop, "attempt": job.attempt}
