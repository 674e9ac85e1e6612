"""Follows a policy file while it is edited; the last good policy stays in force."""

import math
from pathlib import Path

from orchestrator.policy.changes import Change, classify, keep_running
from orchestrator.policy.load import PolicyError, parse_policy, read_text
from orchestrator.policy.values import Policy


class PolicyWatcher:
    """The policy in force in a running process.

    Live fields of an edit are taken; rollout fields keep the values the process was started with.

    Attributes:
        policy: In force now.
        error: Why the file as it is now is not in force, None if it is.
        notice: Which edits wait for a restart, None if there are none.
        changes: The live fields that the last edit changed.
        revision: Counts edits taken, from 0.
    """

    def __init__(self, path: Path | str, *, running: Policy | None = None, period_s: float = 0.5) -> None:
        """Load the file.

        Args:
            path: The policy file.
            running: What was in force before this process, in a system that goes on: the file is then
                an edit of it like any other, and may be a bad one.
            period_s: Seconds between looks at the file.

        Raises:
            PolicyError: There is no good policy to start with.
        """
        self._path = Path(path)
        self._period_s = period_s
        self._looked_s = -math.inf
        self._text: str | None = None
        if running is None:
            self._text = read_text(self._path)
            running = parse_policy(self._text, self._path)
        self.policy = running
        self.error: str | None = None
        self.notice: str | None = None
        self.changes: tuple[Change, ...] = ()
        self.revision = 0
        if self._text is None:
            self._look()

    def refresh(self, now_s: float) -> Policy:
        """Return the policy in force at `now_s`, after a look at the file if one is due.

        Cheap enough to be called for every request: the file is read once per period and parsed
        only if its text has changed.
        """
        if now_s - self._looked_s >= self._period_s:
            self._looked_s = now_s
            self._look()
        return self.policy

    def _look(self) -> None:
        try:
            text = read_text(self._path)
        except PolicyError as error:
            self._text = None  # so that the same text, once back, is read as news
            self.error = f"{error}; the last good policy stays in force"
            return
        if text != self._text:
            self._text = text
            self._take(text)

    def _take(self, text: str) -> None:
        try:
            edited = parse_policy(text, self._path)
        except PolicyError as error:
            self.error = f"{error}; the last good policy stays in force"
            return
        waiting = [c for c in classify(self.policy, edited) if c.kind == "rollout"]
        taken = keep_running(self.policy, edited)
        self.changes = classify(self.policy, taken)
        self.revision += bool(self.changes)
        self.policy = taken
        self.error = None
        self.notice = f"needs restart: {'; '.join(map(str, waiting))}" if waiting else None
