"""The ways to run a stage on a target: a machine type and a hardware class, or a function."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.core.capacity import USABLE_MEMORY
from orchestrator.core.profile import HardwareClass
from orchestrator.core.stage_work import CallTiming, StageWork
from orchestrator.core.targets import Function, Machine, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One way to run the stage on a target.

    Attributes:
        machine: Type of machine, empty for functions.
        where: Accelerators of a replica, None on processors.
        timing: Of one replica, None if not known. `first_s` includes the input's transfer; memory bounds
            the slots.
        memory_bytes: That a replica may use.
        usd_per_s: Of one replica, and of one running call on a function.
        per_machine: Replicas that a machine rented whole has room for; 1 where machines are shared.
    """

    machine: str
    where: HardwareClass | None
    timing: CallTiming | None
    memory_bytes: float
    usd_per_s: float
    per_machine: int = 1


def places(work: StageWork, target: Target) -> Iterator[Place]:
    """Yield the ways to run a stage on a target: its function, or each machine type with each class.

    Machines whose accelerator the model was not profiled on are left out.
    """
    if not target.offered:
        return
    if target.function:
        yield _with_transfer(work, target.payload_bytes_per_s, _function_place(work, target.function))
    for machine in target.machines:
        if machine.accelerators == 0:
            yield _with_transfer(
                work, _input_bytes_per_s(target, machine, 1.0), _processor_place(work, machine)
            )
        for where, timing in work.timings.items():
            if where.hardware == machine.hardware and where.tp <= machine.accelerators:
                place = _accelerator_place(work, machine, where, timing, shared=target.shares_machines)
                share = where.tp / machine.accelerators
                yield _with_transfer(work, _input_bytes_per_s(target, machine, share), place)


def _input_bytes_per_s(target: Target, machine: Machine, share: float) -> float:
    """Return how fast a replica gets its input: its share of the machine's network where it pulls it."""
    if target.direct and machine.network_bytes_per_s:
        return machine.network_bytes_per_s * share
    return target.payload_bytes_per_s


def _with_transfer(work: StageWork, bytes_per_s: float, place: Place) -> Place:
    """Add the transfer of a call's input to its first output. It takes no slot: it precedes the work."""
    if place.timing is None:
        return place
    first_s = place.timing.first_s + work.request_bytes / bytes_per_s
    return replace(place, timing=replace(place.timing, first_s=first_s))


def _function_place(work: StageWork, function: Function) -> Place:
    return Place(
        machine="",
        where=None,
        timing=work.vcpu and work.vcpu.on_vcpus(function.vcpus),
        memory_bytes=function.memory_bytes,
        usd_per_s=function.usd_per_s,
    )


def _processor_place(work: StageWork, machine: Machine) -> Place:
    return Place(
        machine=machine.name,
        where=None,
        timing=work.vcpu and work.vcpu.on_vcpus(machine.vcpus),
        memory_bytes=machine.memory_bytes,
        usd_per_s=machine.usd_per_h / 3600.0,
    )


def _accelerator_place(
    work: StageWork, machine: Machine, where: HardwareClass, timing: CallTiming, *, shared: bool
) -> Place:
    """Memory bounds the calls at once. Their times stay those of the full batch, which errs upwards."""
    memory = where.tp * machine.memory_bytes * USABLE_MEMORY
    room = int((memory - work.weights_bytes) // work.working_bytes) if work.working_bytes else timing.slots
    slots = max(1, min(timing.slots, room))
    per_machine = machine.accelerators // where.tp
    usd_per_s = machine.usd_per_h / 3600.0
    return Place(
        machine=machine.name,
        where=where,
        timing=replace(timing, slots=slots),
        memory_bytes=memory,
        usd_per_s=usd_per_s * where.tp / machine.accelerators if shared else usd_per_s / per_machine,
        per_machine=1 if shared else per_machine,
    )
