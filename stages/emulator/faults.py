"""What can be made to go wrong in an emulated engine, when it starts and while it runs."""

import msgspec


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Faults in force; by default none.

    Attributes:
        slow: Factor on the times of all steps; > 0.
        hang: Requests are accepted and never answered.
        error_rate: Fraction of requests, 0 to 1, answered with `error_status`: evenly, not by chance.
        error_status: 500 to 599.
        drop_after: Answers break off behind so many tokens, with their connection; null for never.
        expire_lease: Leases of KV caches are over as soon as they begin.
        evict_encoder_cache: No embeddings are found.
        wrong_hash: Embeddings go by another key than the medium's.
        drift: The same request is answered in other words each time, as by a GPU whose batches differ.
    """

    slow: float = 1.0
    hang: bool = False
    error_rate: float = 0.0
    error_status: int = 500
    drop_after: int | None = None
    expire_lease: bool = False
    evict_encoder_cache: bool = False
    wrong_hash: bool = False
    drift: bool = False

    def __post_init__(self) -> None:
        if self.slow <= 0:
            raise ValueError("slow must be above 0")
        if not 0 <= self.error_rate <= 1:
            raise ValueError("error_rate must be from 0 to 1")
        if not 500 <= self.error_status <= 599:
            raise ValueError("error_status must be from 500 to 599")
        if self.drop_after is not None and self.drop_after < 0:
            raise ValueError("drop_after must be 0 or more")

    def key_of(self, key: str) -> str:
        """Return the key by which embeddings of a medium go."""
        return f"{key[:64]}-wrong" if self.wrong_hash else key

    def edited(self, edit: bytes) -> "Faults":
        """Return these faults with a JSON object's fields in place of theirs.

        Raises:
            msgspec.ValidationError: There is no such field, or a value is out of range.
            msgspec.DecodeError: It is no JSON.
        """
        fields = msgspec.json.decode(edit, type=dict[str, object])
        return msgspec.convert(msgspec.structs.asdict(self) | fields, Faults)


class FaultBoard:
    """The faults in force, and which requests they hit.

    Attributes:
        faults: May be replaced at any time.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._owed = 0.0

    def strikes(self) -> bool:
        """Whether the next request is one of the fraction that fails."""
        self._owed += self.faults.error_rate
        if self._owed < 1.0 - 1e-9:
            return False
        self._owed -= 1.0
        return True
