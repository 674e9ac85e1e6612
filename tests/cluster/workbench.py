"""A stack that `pulumi up` really brings up, by the stand-in provider."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pulumi import automation

from infra.automation import open_stack, write_settings
from infra.components.kube import type_token
from infra.config import parse_config
from infra.provider import use_stand_in
from infra.stack import stack_args
from tests.cluster.provider.servicer import id_of
from tests.infra.kit import ACCELERATORS, ROOT, pulumi_values

POLICY = {
    "apiVersion": "tercet/v1",
    "model": {"name": "OpenGVLab/InternVL2_5-26B", "kappa": 1},
    "stages": {
        "encode": {"engine": "vllm", "hardware": ["h100"], "tp": 1, "batch": 1, "max": 8, "budget_s": 0.6},
        "prefill": {"engine": "vllm", "hardware": ["h100"], "tp": 4, "batch": 8, "max": 8, "budget_s": 0.5},
        "decode": {"engine": "vllm", "hardware": ["h100"], "tp": 4, "batch": 96, "max": 8},
    },
    "slo": {"ttft_s": 2.0, "tpot_s": 0.05},
}


@dataclass
class Bench:
    """One stack in a folder, with a namespace of its name.

    Attributes:
        config: Values of the stack by full key.
        changed: What the last run did, as operations by name of the object.
    """

    folder: Path
    kubeconfig: Path
    cli: Path
    name: str
    config: dict = field(default_factory=dict)
    changed: dict = field(default_factory=dict)
    checkpoints: bool = True
    _opened: automation.Stack | None = None

    def __post_init__(self):
        shipped = yaml.safe_load((ROOT / "Pulumi.simulated.yaml").read_text())["config"]
        self.config = {key: value for key, value in shipped.items() if not key.startswith("tercet:")}
        self.config["tercet:namespace"] = self.name
        self.config["tercet:services"] = {}
        self.config["tercet:preview"] = {"simulate": False}
        use_stand_in(self.folder, "tests.cluster.provider")

    def serve(self, service="small", **edits):
        """Write the policy of a service, with edits of fields by path such as `slo__ttft_s`."""
        policy = yaml.safe_load(yaml.safe_dump(POLICY)) | {"service": service}
        for path, value in edits.items():
            *parents, last = path.split("__")
            section = policy
            for key in parents:
                section = section.setdefault(key, {})
            section[last] = value
        file = self.folder / f"{service}.yaml"
        file.write_text(yaml.safe_dump(policy))
        self.config["tercet:services"][service] = {"policy": str(file)}

    def objects(self):
        """Return what the stack consists of."""
        config = parse_config(pulumi_values(self.config), self.name)
        return list(stack_args(config, ROOT, ACCELERATORS).objects())

    def up(self):
        """Bring it up; return what changed."""
        return self._run(lambda stack, told: stack.up(on_event=told))

    def preview(self):
        """Return what an `up` would change."""
        return self._run(lambda stack, told: stack.preview(on_event=told))

    def destroy(self):
        return self._run(lambda stack, told: stack.destroy(on_event=told))

    def recorded(self):
        """Return what the stack's state holds, as type and id."""
        state = self._stack().export_stack().deployment
        assert not state.get("pending_operations")
        resources = ((each["type"], each.get("id")) for each in state.get("resources", ()))
        return {each for each in resources if each[0].startswith("kubernetes:")}

    def there(self, kube):
        """Return what of the stack the API server has, as type and id."""
        return {(type_token(each), id_of(each)) for each in self.objects() if kube.get(each)}

    def _run(self, step):
        self.changed = {}

        def told(event):
            if event.resource_pre_event and event.resource_pre_event.metadata.op not in ("same", "read"):
                about = event.resource_pre_event.metadata
                self.changed[about.urn.rpartition("::")[2]] = about.op.value

        step(self._stack(), told)
        return self.changed

    def _stack(self) -> automation.Stack:
        text = yaml.safe_dump({"config": self.config})
        if not self._opened:
            places = {
                "folder": self.folder,
                "home": self.folder / "home",
                "cli": self.cli,
                "checkpoints": self.checkpoints,
            }
            self._opened = open_stack(self.name, text, kubeconfig=self.kubeconfig, **places)
        write_settings(self.name, text, folder=self.folder, kubeconfig=self.kubeconfig)
        return self._opened
