"""The Celery application: `celery -A worker worker`.

Queues, settings and process signals. What a task does is in `worker.tasks`. The reasons for
the settings are failures that were seen: each loses, doubles or stalls something without it.
Start it with `REMAP_SIGTERM=SIGQUIT` in the environment, as the Procfile does, so that SIGTERM
ends the children at once, which finish what is under way and give back the rest, instead of
waiting for a bulk task; Celery reads it before it reads this module.
"""

from celery import Celery
from celery.signals import (
    setup_logging,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
)
from kombu.entity import Queue

from worker import process
from worker.lanes import INTAKE_QUEUE, Lane
from worker.settings import settings

#: Seconds after which a task is told to give up; a bulk task on a hanging platform takes 80.
SOFT_TIME_LIMIT_S = 110
_TIME_LIMIT_S = 120


def _transport_options(broker: str) -> dict[str, object]:
    if broker.startswith("amqp"):
        return {"confirm_publish": True}
    return {
        "visibility_timeout": 300,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A frozen Redis would otherwise hold a publisher for ever.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": not broker.startswith("redis+socket"),
        "health_check_interval": 10,
        # Consumed in the order in which they are named.
        "queue_order_strategy": "priority",
    }


_broker = settings().broker

app = Celery("mirrorpost", broker=_broker, include=["worker.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    task_default_queue=INTAKE_QUEUE,
    # Plain durable queues: a producer that declares the intake queue with its defaults must
    # find it the same on RabbitMQ, or its declaration is refused.
    task_queues=[
        Queue(Lane.REPLY.queue),
        Queue(INTAKE_QUEUE),
        *(Queue(lane.queue) for lane in Lane if lane is not Lane.REPLY),
    ],
    task_create_missing_queues=True,
    task_ignore_result=True,
    # The row owns retries: a task is done with, however it ends.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=True,
    task_time_limit=_TIME_LIMIT_S,
    task_soft_time_limit=SOFT_TIME_LIMIT_S,
    task_publish_retry=False,
    worker_concurrency=2,
    worker_prefetch_multiplier=1,
    # By memory alone: while a child is replaced nothing of its bots' pace is used, and so many
    # tasks as are worth a limit are one slow broadcast's of a minute.
    worker_max_memory_per_child=500_000,
    worker_proc_alive_timeout=60,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=_transport_options(_broker),
)

setup_logging.connect(process.begin_logging)
worker_init.connect(process.prepare)
worker_process_init.connect(process.begin)
task_prerun.connect(process.end_once)
worker_process_shutdown.connect(process.end)
