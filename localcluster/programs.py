"""Finding the control plane's programs, and building those that nobody has installed."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stages.disk_cache import cached_directory

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
"""What a cluster is made of."""
INSTALL = (
    "install Go (apt-get install golang-go, brew install go) to have them built once, or point "
    "KUBEBUILDER_ASSETS at a folder that has them"
)

_MODULES = Path(__file__).parent / "modules"


class ProgramMissing(RuntimeError):
    """A program is neither installed nor can be built; the message says how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A Go module and the programs built from it; its go.mod and go.sum are in `modules/`.

    Attributes:
        path: Of the module that go.mod requires.
        packages: What to build, by program.
        version_variable: Go variable that is to hold the version, empty if none needs to.
        minutes: How long a first build took on two cores.
    """

    name: str
    path: str
    packages: Mapping[str, str]
    version_variable: str = ""
    minutes: int

    @property
    def version(self) -> str:
        """The version that go.mod pins."""
        pinned = re.search(rf"{re.escape(self.path)} (v\S+)", (_MODULES / self.name / "go.mod").read_text())
        assert pinned, f"go.mod of {self.name} does not require {self.path}"
        return pinned[1]


MODULES = (
    Module(name="etcd", path="go.etcd.io/etcd/server/v3", packages={"etcd": "."}, minutes=1),
    Module(
        name="kubernetes",
        path="k8s.io/kubernetes",
        packages={
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
        },
        # KWOK refuses a server that does not know its version.
        version_variable="k8s.io/component-base/version.gitVersion",
        minutes=8,
    ),
    Module(name="kwok", path="sigs.k8s.io/kwok", packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, minutes=2),
    Module(
        name="pulumi",
        path="github.com/pulumi/pulumi/pkg/v3",
        packages={"pulumi": "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"},
        version_variable="github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",
        minutes=7,
    ),
)


def find_programs(names: Iterable[str], say: Callable[[str], None]) -> dict[str, Path]:
    """Return where programs are: in $KUBEBUILDER_ASSETS, on PATH, else in the cache, built if need be.

    Args:
        names: Programs of `MODULES`.
        say: Told one line when the build of a module starts and one for each program that it has built.

    Raises:
        ProgramMissing: One is not installed and cannot be built.
    """
    found = {name: installed(name) for name in names}
    return {name: path or _built(name, say) for name, path in found.items()}


def installed(name: str) -> Path | None:
    """Return an installed program, None if there is none."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = (shutil.which(name, path=assets) if assets else None) or shutil.which(name)
    return Path(path) if path else None


def _built(name: str, say: Callable[[str], None]) -> Path:
    module = next(module for module in MODULES if name in module.packages)
    try:
        folder = cached_directory(f"{module.name}-{module.version}", partial(_build, module, say))
    except OSError as error:
        raise ProgramMissing(f"{name} cannot be built: {error}") from error
    return folder / name


def _build(module: Module, say: Callable[[str], None], folder: Path) -> None:
    go = shutil.which("go")
    programs = ", ".join(module.packages)
    if not go:
        raise ProgramMissing(f"not installed: {programs}; {INSTALL}")
    say(f"building {programs} {module.version}, once, about {module.minutes} min on two cores")
    source = shutil.copytree(_MODULES / module.name, folder / "source")
    for program, package in module.packages.items():
        started_s = time.monotonic()
        command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", _link_flags(module)]
        done = subprocess.run(
            [*command, "-o", str(folder / program), package], cwd=source, capture_output=True, text=True
        )
        if done.returncode:
            raise ProgramMissing(f"{program} does not build: {_last_lines(done.stderr)}")
        say(f"built {program} in {time.monotonic() - started_s:.0f} s")
    shutil.rmtree(source)


def _link_flags(module: Module) -> str:
    version = f" -X {module.version_variable}={module.version}" if module.version_variable else ""
    return f"-s -w{version}"


def _last_lines(text: str, lines: int = 5) -> str:
    return "\n".join(text.splitlines()[-lines:])
