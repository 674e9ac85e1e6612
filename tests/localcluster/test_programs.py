"""Where the control plane's programs come from; real builds are for `make test-cluster`."""

from pathlib import Path

import pytest

from localcluster.__main__ import main
from localcluster.programs import CONTROL_PLANE, MODULES, ProgramMissing, find_programs


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A machine without any of the programs, and with an empty cache."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))


def program(folder: Path, name: str, script: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}")
    file.chmod(0o755)
    return file


def find(name: str) -> tuple[Path, list[str]]:
    said: list[str] = []
    return find_programs([name], said.append)[name], said


def test_assets_come_before_path(monkeypatch, tmp_path):
    """$KUBEBUILDER_ASSETS is asked first, then PATH, and nothing is built of what is found."""
    on_path = program(tmp_path / "path", "etcd")
    assert find("etcd") == (on_path, [])
    asset = program(tmp_path / "assets", "etcd")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert find("etcd") == (asset, [])


def test_without_go_the_message_says_what_to_install():
    """And nothing is left in the cache that a later run could take for a program."""
    for _ in range(2):
        with pytest.raises(ProgramMissing, match=r"not installed: kwok; install Go .*KUBEBUILDER_ASSETS"):
            find("kwok")


def test_what_is_missing_is_built_once(tmp_path):
    """One line when it starts and one for each program; the second time it is there."""
    # Stands in for `go build … -o FILE PACKAGE`.
    program(tmp_path / "path", "go", 'while [ "$1" != -o ]; do shift; done; echo > "$2"')
    built, said = find("kube-scheduler")
    assert built.is_file()
    assert [line.split()[:2] for line in said] == [
        ["building", "kube-apiserver,"],
        *(["built", name] for name in module_of("kubernetes").packages),
    ]
    assert find("kube-apiserver") == (built.with_name("kube-apiserver"), [])
    assert {file.name for file in built.parent.iterdir()} == set(module_of("kubernetes").packages)


def test_a_failed_build_shows_its_last_words(tmp_path):
    """And the next run tries again."""
    program(tmp_path / "path", "go", "echo no room >&2; exit 1")
    for _ in range(2):
        with pytest.raises(ProgramMissing, match="etcd does not build: no room"):
            find("etcd")


def test_every_program_has_a_module_with_a_pinned_version():
    """And go.sum, so that what is fetched is what was tested."""
    assert set(CONTROL_PLANE) <= {name for module in MODULES for name in module.packages}
    assert module_of("kubernetes").version.startswith("v1.36.")


def module_of(name):
    return next(module for module in MODULES if module.name == name)


def test_what_the_tests_need_is_found_before_they_start(tmp_path, capsys):
    """`python -m localcluster` names every program, and builds none that is installed."""
    names = [name for module in MODULES for name in module.packages]
    files = [program(tmp_path / "path", name) for name in names]
    main()
    assert capsys.readouterr().err.splitlines() == [f"{file.name}: {file}" for file in files]
    files[0].unlink()
    with pytest.raises(SystemExit, match=f"{files[0].name}.*install Go"):
        main()
