"""The engine of a stage that a server computes."""

from collections.abc import Callable, Mapping

from stages.adapters.plain import PlainDecode
from stages.adapters.server import EngineServer
from stages.adapters.sglang import SglangDecode, SglangPrefill
from stages.adapters.sglang_encoders import SglangEncoder
from stages.adapters.vllm import VllmDecode, VllmEncode, VllmPrefill
from stages.blobs import BlobStore
from stages.limits import EngineLimits
from stages.models import AnyEngine
from stages.types import Stage

Build = Callable[[EngineServer, BlobStore, EngineLimits], AnyEngine]

_BUILD: Mapping[str, Mapping[Stage, Build]] = {
    "vllm": {Stage.ENCODE: VllmEncode, Stage.PREFILL: VllmPrefill, Stage.DECODE: VllmDecode},
    "sglang": {Stage.ENCODE: SglangEncoder, Stage.PREFILL: SglangPrefill, Stage.DECODE: SglangDecode},
    "openai": {Stage.DECODE: PlainDecode},
}


def server_engine(server: EngineServer, stage: Stage, blobs: BlobStore, limits: EngineLimits) -> AnyEngine:
    """Return an engine that has a server do its work; waits until that is healthy.

    Raises:
        ServerUnfit: It did not become healthy, or cannot do the stage.
    """
    return _BUILD[server.kind][stage](server, blobs, limits)
