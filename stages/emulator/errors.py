"""What an engine answers when it does not do what it was asked, in vLLM's words."""

import msgspec


class EngineError(Exception):
    """A refusal or failure, with the JSON that vLLM has for it."""

    def __init__(
        self, message: str, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """Return the answer's body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def wrong_value(message: str, param: str, value: object = None) -> EngineError:
    """Return vLLM's refusal of a field."""
    told = f"(parameter={param})" if value is None else f"(parameter={param}, value={value})"
    return EngineError(f"{message} {told}", param=param)


def wrong_shape(path: str, message: str, kind: str = "value_error") -> EngineError:
    """Return vLLM's refusal of a body that does not have the right shape; `path` begins with `body`."""
    detail = {"type": kind, "loc": path, "msg": message}
    return EngineError(f"1 validation error:\n  {detail}", kind="Bad Request", param=path)


def failed() -> EngineError:
    """Return what vLLM says of a request that its engine gave up."""
    return EngineError("Internal server error", 500, "InternalServerError")
