"""The programs of a control plane: found on this machine, or built once from the Go module proxy."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).with_name("go")
_TELL_EVERY_S = 15.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program and how it is built.

    Attributes:
        version: Part of its folder in the cache.
        source: Folder under `go/`, with the go.mod that pins it and all that it needs.
        package: What `go build` is given there.
        stamp: Variable that takes the version; KWOK refuses an API server without one.
        minutes: How long a build takes on two cores, about.
    """

    version: str
    source: str
    package: str
    stamp: str = ""
    minutes: int = 1


def _kubernetes(name: str, minutes: int) -> Program:
    return Program(
        version="v1.36.3",
        source="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        stamp="k8s.io/component-base/version.gitVersion",
        minutes=minutes,
    )


PROGRAMS: Mapping[str, Program] = {
    "etcd": Program(version="v3.6.16", source="etcd", package="."),
    "kube-apiserver": _kubernetes("kube-apiserver", 5),
    "kube-controller-manager": _kubernetes("kube-controller-manager", 1),
    "kube-scheduler": _kubernetes("kube-scheduler", 1),
    "kwok": Program(version="v0.8.0", source="kwok", package="sigs.k8s.io/kwok/cmd/kwok", minutes=2),
    "pulumi": Program(
        version="v3.246.0",
        source="pulumi",
        package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        stamp="github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",
        minutes=6,
    ),
}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


class NoProgram(RuntimeError):
    """A program is not on this machine and cannot be built; the message says what to do."""


def programs(names: Sequence[str], tell: Tell) -> Mapping[str, Path]:
    """Return where programs are; those that are nowhere are built first, which is told line by line.

    Looked for in `KUBEBUILDER_ASSETS`, on PATH and in the cache, in this order.

    Raises:
        NoProgram: One cannot be had.
    """
    return {name: find(name) or _build(name, tell) for name in names}


def find(name: str) -> Path | None:
    """Return where a program is on this machine, None if it is nowhere."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    at = shutil.which(name, path=assets) if assets else None
    at = at or shutil.which(name)
    if at:
        return Path(at)
    cached = _cached(name)
    return cached if cached.exists() else None


def cache_home() -> Path:
    """Return the folder of what is built once for all systems of this user."""
    if named := os.environ.get("TERCET_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tercet"


def _cached(name: str) -> Path:
    return cache_home() / "programs" / f"{name}-{PROGRAMS[name].version}" / name


def _build(name: str, tell: Tell) -> Path:
    """Build a program into the cache; it appears there whole or not at all."""
    program, target = PROGRAMS[name], _cached(name)
    go = shutil.which("go")
    if go is None:
        raise NoProgram(
            f"{name} is not on this machine: install Go 1.26 or newer (https://go.dev/doc/install) and it is "
            f"built, or put it on PATH, or name its folder in KUBEBUILDER_ASSETS"
        )
    with _alone(target.parent):
        if not target.exists():
            tell(f"building {name} {program.version}, once, about {program.minutes} min on two cores …")
            _go_build(go, program, target, tell)
    return target


def _go_build(go: str, program: Program, target: Path, tell: Tell) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source = shutil.copytree(_SOURCES / program.source, Path(folder, "source"))
        built, log = Path(folder, target.name), Path(folder, "log")
        flags = f"-s -w -X {program.stamp}={program.version}" if program.stamp else "-s -w"
        options = ["-buildvcs=false", "-trimpath", "-mod=mod", "-ldflags", flags, "-o", str(built)]
        with log.open("wb") as output:
            command = [go, "build", *options, program.package]
            process = subprocess.Popen(command, cwd=source, stdout=output, stderr=output)
            try:
                _wait(process, target.name, tell)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            raise NoProgram(f"{target.name} cannot be built:\n{_last_lines(log)}")
        built.replace(target)


def _wait(process: subprocess.Popen[bytes], name: str, tell: Tell) -> None:
    started_s = time.monotonic()
    while True:
        try:
            process.wait(_TELL_EVERY_S)
        except subprocess.TimeoutExpired:
            tell(f"building {name}: {time.monotonic() - started_s:.0f} s")
        else:
            return


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others that would build the same waiting until we are done."""
    folder.mkdir(parents=True, exist_ok=True)
    with Path(folder, "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last_lines(log: Path, lines: int = 10) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
