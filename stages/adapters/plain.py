"""Any server with OpenAI's chat completions, for requests that are not split: llama.cpp's, TGI, LMDeploy."""

from typing import ClassVar

from stages.adapters.bodies import Json, unnamed
from stages.adapters.decode import ServedDecode
from stages.adapters.events import Reader, counted
from stages.adapters.load import ServerLoad
from stages.adapters.watch import ASK_S, Watch
from stages.engines import AnswerDiverged
from stages.types import DecodeJob


class PlainWatch(Watch):
    """Asks for the list of models, the one question that all such servers answer."""

    health_path = "/v1/models"

    def checked_version(self) -> str:
        """Return nothing: each has another way to say it, and none is refused."""
        return ""

    def ask(self) -> ServerLoad:
        """Return nothing of its load; what it has been given is known to us."""
        self.calls.wait(self.calls.get(self.health_path, ASK_S))
        return ServerLoad()


class PlainDecode(ServedDecode):
    """`DecodeEngine` by a server that does all stages, and says no ids of tokens.

    An event counts as one token, known by what it says. So an answer that was lost can be continued if the
    second one comes in the same events, and ends with an error that says so if not.
    """

    watches: ClassVar[type[Watch]] = PlainWatch

    def asked(self, job: DecodeJob, client: Json) -> Json:
        """Return the client's body; media come without names, which such servers may refuse."""
        return unnamed(client)

    def reader(self, client: Json) -> Reader:
        """Return what counts events."""
        return counted

    async def text(self, job: DecodeJob, tokens: tuple[int, ...]) -> str:
        """Refuse: no event says several tokens."""
        raise AnswerDiverged("this engine does not say its tokens")
