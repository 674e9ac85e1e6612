"""The process of `tercet emulate`: `python -m cli.emulated` with an `EmulatedProcess` as JSON."""

import asyncio
import signal
import sys

import msgspec
import uvloop

from orchestrator.core.links import Link
from orchestrator.core.profile import DecodeTiming, PrefillTiming
from stages.emulator.config import EmulatorConfig, EngineTiming, Kind
from stages.emulator.faults import Faults
from stages.emulator.run import Address, Emulator


class ModelTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile says of a model on some hardware; None and 0 take no time.

    Attributes:
        link: Through which KV caches are fetched.
        kv_bytes_per_token: Of them.
    """

    image_s: float = 0.0
    prefill: PrefillTiming | None = None
    decode: DecodeTiming | None = None
    link: Link | None = None
    kv_bytes_per_token: int = 0

    def timing(self) -> EngineTiming:
        """Return it as an engine takes it."""
        return EngineTiming(
            image_s=self.image_s,
            prefill_s=self.prefill.step_s if self.prefill else _no_time,
            decode_s=self.decode.itl_s if self.decode else _no_time,
            transfer_s=self._transfer_s,
        )

    def _transfer_s(self, tokens: int) -> float:
        return self.link.transfer_s(tokens * self.kv_bytes_per_token) if self.link else 0.0


class EmulatedProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process: an engine, and where it listens."""

    config: EmulatorConfig
    times: ModelTimes
    faults: Faults
    host: str
    port: int
    as_json: bool = False


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    process = msgspec.json.decode(sys.argv[1], type=EmulatedProcess)
    try:
        uvloop.run(_serve(process))
    except OSError as error:
        sys.exit(f"tercet: cannot listen: {error}; choose another --host, --port or --side-port")


async def _serve(process: EmulatedProcess) -> None:
    emulator = Emulator(
        process.config, process.times.timing(), process.faults, host=process.host, port=process.port
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, emulator.stop)
    await emulator.run(lambda address: _say(process, address))


def _say(process: EmulatedProcess, address: Address) -> None:
    role, model = process.config.role, process.config.model
    facts = {
        "engine": process.config.kind,
        "stage": role,
        "model": model,
        "url": address.url,
        "side_port": address.side_port,
        "encoder_port": address.encoder_port,
    }
    if process.as_json:
        line = msgspec.json.encode(facts).decode()
    else:
        channel = "bootstrap" if process.config.kind is Kind.SGLANG else "side channel"
        side = f", {channel} on port {address.side_port}" if address.side_port else ""
        name = {Kind.VLLM: "vLLM", Kind.SGLANG: "SGLang"}[process.config.kind]
        side += f", list of encoders on port {address.encoder_port}" if address.encoder_port else ""
        line = f"emulating {name}, {role} engine of {model} at {address.url}{side}"
    print(line, flush=True)  # noqa: T201


def _no_time(*_: int) -> float:
    return 0.0


if __name__ == "__main__":
    main()
