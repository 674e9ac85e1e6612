"""The Celery app and its messages: what gateway and workers must agree on to meet on a queue.

docs/adr/0002 says why the settings are what they are.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from celery import Celery

from stages.types import Job, Stage, stage_of

TASK_NAMES: Mapping[Stage, str] = {stage: f"tercet.{stage}" for stage in Stage}

_NO_CANVAS: Mapping[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_encode = msgspec.json.Encoder().encode


def celery_app(broker_url: str) -> Celery:
    """Return the Celery app; `broker_url` is a redis:// or redis+socket:// address."""
    app = Celery("tercet", broker=broker_url, backend=None, set_as_current=False)
    app.conf.update(
        broker_transport_options={
            # Recovery is the ledger's, so kombu keeps no copies and restores nothing.
            "ack_emulation": False,
            "priority_steps": [0],
            "body_encoding": "utf-8",
            "socket_connect_timeout": 2.0,
            "socket_timeout": 5.0,
            # With the event loop this is the BRPOP timeout; it bounds how long a stop takes.
            "polling_interval": 0.2,
            "health_check_interval": 5,
        },
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_ignore_result=True,
        task_create_missing_queues=False,
        # Credits bound what is in flight; a second bound here would only stall the consumer.
        worker_prefetch_multiplier=0,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_detect_quorum_queues=False,
        worker_disable_rate_limits=True,
        worker_hijack_root_logger=False,
    )
    return app


def broker_url(redis_url: str) -> str:
    """Return a Redis address in kombu's spelling; the two differ for unix sockets and TLS."""
    if redis_url.startswith("rediss://") and "ssl_cert_reqs=" not in redis_url:
        # Without any such option kombu takes every certificate, unlike redis-py.
        return f"{redis_url}{'&' if '?' in redis_url else '?'}ssl_cert_reqs=required"
    return redis_url.replace("unix://", "redis+socket://", 1)


def task_message(job: Job, queue: str) -> bytes:
    """Return the message that kombu's Redis transport would LPUSH for the job's task.

    Built here rather than sent through kombu, so that the ledger can reserve, record and queue in one
    atomic step. Celery message protocol 2 in kombu's virtual-transport envelope.
    """
    body = _encode([[job], {}, _NO_CANVAS]).decode()
    name = TASK_NAMES[stage_of(job.hop)]
    headers = {"lang": "py", "task": name, "id": job.key, "root_id": job.key, "ignore_result": True}
    properties: dict[str, Any] = {
        "correlation_id": job.key,
        "delivery_mode": 2,
        "priority": 0,
        "body_encoding": "utf-8",
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_tag": job.key,
    }
    return _encode(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
