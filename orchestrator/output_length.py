"""How long completions turn out, as opposed to how long they may become."""

_HALF_LIFE_REQUESTS = 64


class OutputLength:
    """A moving mean of completion tokens; half of its weight is on the last 64 completions."""

    def __init__(self) -> None:
        self._mean_tokens: float | None = None

    def observe(self, tokens: int) -> None:
        """Take a finished completion's length."""
        keep = 0.5 ** (1 / _HALF_LIFE_REQUESTS)
        before = self._mean_tokens
        self._mean_tokens = float(tokens) if before is None else keep * before + (1 - keep) * tokens

    def expect(self, most_tokens: int) -> int:
        """Return the tokens to expect of a completion that may have `most_tokens`; 1 at least."""
        mean = most_tokens if self._mean_tokens is None else round(self._mean_tokens)
        return max(1, min(most_tokens, mean))
