"""Slows and crashes the built-in engine in the processes that a test starts; put on their PYTHONPATH.

Nothing of the product knows of it: it wraps the engines that the table of models builds.

TERCET_TEST_SLOW: seconds by stage as JSON, such as {"encode": 0.2}: per image, per prompt, per token;
"seed-7" is for the tokens, "prefill-seed-7" for the prompt of a request with seed 7.
TERCET_TEST_POISON: JSON {stage, seed, hang}: the stage's process aborts when it meets a request with this
seed, or never ends the step that it is in.
"""

import json
import os
import threading
import time
from dataclasses import replace

_SLOW = json.loads(os.environ.get("TERCET_TEST_SLOW", "{}"))
_POISON = json.loads(os.environ.get("TERCET_TEST_POISON", "{}"))


class Hampered:
    """An engine of one stage with delays, and a weakness for one seed."""

    def __init__(self, engine, stage):
        self._engine = engine
        self._slow_s = _SLOW.get(stage, 0.0)
        self._hung = False
        self._poison = _POISON.get("seed") if _POISON.get("stage") == stage else None

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def encode(self, job):
        time.sleep(self._slow_s)
        return self._engine.encode(job)

    def prefill(self, job):
        time.sleep(_SLOW.get(f"prefill-seed-{job.sampling.seed}", self._slow_s))
        self._maybe_crash(job)
        return self._engine.prefill(job)

    def decode(self, job, emit):
        self._maybe_crash(job)

        slow_s = _SLOW.get(f"seed-{job.sampling.seed}", self._slow_s)

        def slow(chunk):
            time.sleep(slow_s)
            emit(chunk)

        return self._engine.decode(job, slow)

    def _maybe_crash(self, job):
        if self._poison is not None and job.sampling.seed == self._poison:
            time.sleep(0.1)  # so that others are in the batch
            if not _POISON.get("hang"):
                os.abort()
            self._hung = True
            threading.Event().wait()

    def load(self):
        load = self._engine.load()
        return replace(load, step_age_s=1e6) if self._hung else load


if _SLOW or _POISON:
    from stages.models import MODELS

    def _hampered(build):
        return lambda stage, blobs, limits: Hampered(build(stage, blobs, limits), str(stage))

    MODELS["tiny"] = replace(MODELS["tiny"], engine=_hampered(MODELS["tiny"].engine))
