"""Install vLLM, as `make test-vllm` does before its tests: `python -m localengine`."""

import sys

from localengine.environment import EngineMissing, vllm_python


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


try:
    _say(f"vLLM runs with {vllm_python(_say)}")
except EngineMissing as error:
    sys.exit(f"{error}")
