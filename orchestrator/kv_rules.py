"""What the data path has to know of KV caches under a policy file that may be edited while it is in use."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.control_policy import Hardware, edge_levels, known_profile
from orchestrator.core.kv import KvSizes, kv_sizes
from orchestrator.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class KvRules:
    """How KV caches of one model are handled.

    Attributes:
        sizes: What the model keeps of what it reads.
        decode_level: Leading topology levels that decode has to share with prefill.
    """

    sizes: KvSizes
    decode_level: int = 0


class CurrentKvRules:
    """The rules of the policy in force, worked out once for each edit.

    Args:
        path: Where the policy file is; the profile that it names is beside it.
        token_bytes: KV cache of one position, as the model's front has it.
    """

    def __init__(self, path: Path | str, token_bytes: int) -> None:
        self._path = path
        self._token_bytes = token_bytes
        self._worked_out: tuple[Policy, KvRules] | None = None

    def of(self, policy: Policy) -> KvRules:
        """Return the rules under a policy."""
        if self._worked_out is None or self._worked_out[0] is not policy:
            self._worked_out = policy, self._work_out(policy)
        return self._worked_out[1]

    def _work_out(self, policy: Policy) -> KvRules:
        kappa, levels = policy.model.kappa, policy.topology.levels
        if kappa and not levels:  # the usual case needs to know nothing of the hardware
            return KvRules(sizes=kv_sizes(kappa, self._token_bytes, None))
        hardware = Hardware.load()
        profile = known_profile(policy, self._path, hardware.accelerators)
        return KvRules(
            sizes=kv_sizes(kappa, self._token_bytes, profile),
            decode_level=edge_levels(policy, profile, hardware.links).prefill_decode if levels else 0,
        )
