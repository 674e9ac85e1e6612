"""Who carries: the Celery app, its thin tasks and the process around one engine."""
