"""The message we queue by hand is the one that kombu would queue."""

import json

from kombu.entity import Queue

from cli.redis_server import find_redis_server
from orchestrator.broker import TASK_NAMES, celery_app, task_message
from stages.types import Stage
from tests.fakes.redis_process import RedisProcess
from tests.workers.test_tasks import JOB


def test_our_message_has_the_shape_of_kombus(tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    assert find_redis_server()
    with RedisProcess(tmp_path_factory.mktemp("redis")) as server:
        app = celery_app(server.broker_url)
        with app.producer_pool.acquire(block=True) as producer:
            app.amqp.send_task_message(
                producer,
                TASK_NAMES[Stage.PREFILL],
                app.amqp.as_task_v2(JOB.key, TASK_NAMES[Stage.PREFILL], args=[{"a": 1}], ignore_result=True),
                queue=Queue("prefill.r", no_declare=True),
                declare=[],
            )
        theirs = json.loads(server.client().rpop("prefill.r"))
    ours = json.loads(task_message(JOB, "prefill.r"))
    assert set(ours) == set(theirs)
    assert set(ours["properties"]) <= set(theirs["properties"])
    assert set(ours["headers"]) <= set(theirs["headers"])
    for name in ("content-encoding", "content-type"):
        assert ours[name] == theirs[name]
    for name in ("delivery_mode", "priority", "body_encoding", "delivery_info", "correlation_id"):
        assert ours["properties"][name] == theirs["properties"][name]
    for name in ("lang", "task", "id", "root_id", "ignore_result"):
        assert ours["headers"][name] == theirs["headers"][name]
    args, kwargs, canvas = json.loads(ours["body"])
    assert (kwargs, canvas) == tuple(json.loads(theirs["body"])[1:])
    assert args[0]["prompt"]["token_ids"] == [5, 6]
