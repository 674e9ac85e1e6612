"""Build what `make test-cluster` needs before its tests, whose time is limited: `python -m localcluster`."""

import sys

from localcluster.programs import MODULES, ProgramMissing, find_programs


def main() -> None:
    """Find each program or build it; exit with what to install if one cannot be had."""
    try:
        for name, path in find_programs(
            [name for module in MODULES for name in module.packages], _say
        ).items():
            _say(f"{name}: {path}")
    except ProgramMissing as error:
        sys.exit(str(error))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
