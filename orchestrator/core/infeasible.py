"""What a value says that cannot be used."""


class InfeasibleError(ValueError):
    """A field out of its range, or fields that are valid alone and contradict each other.

    Attributes:
        keys: Path from the section to the value that the message is about.
    """

    def __init__(self, message: str, *keys: str | int) -> None:
        super().__init__(message)
        self.keys = keys
