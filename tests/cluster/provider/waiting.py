"""Waiting until objects are ready, or gone."""

import threading
import time

SKIP = "pulumi.com/skipAwait"
DEADLINE_S = 600.0
"""Without a timeout in the program."""

_POLL_S = 0.1


class NotInTime(Exception):
    """The deadline passed, or the run was cancelled; the message says what was waited for."""


class Waiter:
    """Polls the API server until it is cancelled."""

    def __init__(self, api):
        self._api = api
        self._cancelled = threading.Event()

    def cancel(self):
        self._cancelled.set()

    def ready(self, thing, deadline_s):
        """Return once an object does what its kind is for; at once if its annotation says not to wait.

        Raises:
            NotInTime: It was not.
        """
        check = _CHECKS.get(thing["kind"])
        skipped = thing["metadata"].get("annotations", {}).get(SKIP) == "true"
        if check and not skipped:
            self._until(lambda: check(self._api, self._api.get(thing) or thing), deadline_s)

    def gone(self, thing, uid, deadline_s):
        """Return once the object of that uid is no more.

        Raises:
            NotInTime: It still is.
        """

        def left():
            live = self._api.get(thing)
            return live and live["metadata"]["uid"] == uid and f"it is still there: {_finalizers(live)}"

        self._until(left, deadline_s)

    def _until(self, missing, deadline_s):
        end_s = time.monotonic() + deadline_s
        while what := missing():
            if self._cancelled.wait(_POLL_S):
                raise NotInTime(f"cancelled: {what}")
            if time.monotonic() > end_s:
                raise NotInTime(f"waited {deadline_s:.0f} s: {what}")


def _finalizers(live):
    names = [*live["metadata"].get("finalizers", ()), *live.get("spec", {}).get("finalizers", ())]
    return f"held by {', '.join(names)}" if names else "nothing holds it"


def _rolled_out(api, live):
    wanted, status = live["spec"].get("replicas", 1), live.get("status", {})
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    seen = status.get("observedGeneration") == live["metadata"].get("generation")
    if seen and updated == ready == wanted:
        return ""
    return f"{ready} of {wanted} replicas are ready"


def _has_endpoints(api, live):
    selector = f"kubernetes.io/service-name={live['metadata']['name']}"
    slices = api.list("discovery.k8s.io/v1", "EndpointSlice", live["metadata"]["namespace"], selector)
    ready = any(each["conditions"].get("ready") for found in slices for each in found.get("endpoints") or ())
    return "" if ready or not live["spec"].get("selector") else "no pod is ready behind it"


_CHECKS = {"Deployment": _rolled_out, "StatefulSet": _rolled_out, "Service": _has_endpoints}
