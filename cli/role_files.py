"""Files that say which stage each replica of `tercet up` does, where that may change while it runs."""

import shutil
from pathlib import Path

from orchestrator.policy import Policy
from stages.types import Stage
from workers.config import Roles


class RoleFiles:
    """A folder with a file for each replica whose stage may change; who may write it says which it does."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        """Take where the folder is to be, and the policy that says whether stages change at all."""
        self._folder = folder
        self._begun: dict[str, Stage] = {}
        changing = [stage for stage in Stage if len(policy.roles(stage)) > 1]
        self._slots = {stage: policy.stages[stage].batch for stage in changing}

    def clear(self) -> None:
        """Remove what an earlier run left behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self, name: str, stage: Stage) -> None:
        """Have a replica begin with a stage."""
        if stage in self._slots:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._begun[name] = stage
            self.give_up(name)

    def of(self, name: str, stage: Stage) -> Roles | None:
        """Return where a replica that begins with a stage is told which one to do; None if it keeps that."""
        return Roles(file=str(self._folder / name), slots=self._slots) if stage in self._slots else None

    def give_up(self, name: str) -> None:
        """Have a replica whose server does not do what it is told go on with the stage that it began with."""
        (self._folder / name).write_text(f"{self._begun[name]}\n")
