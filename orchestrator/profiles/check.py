"""What is wrong with a profile file whose fields are all valid."""

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.core.capacity import USABLE_MEMORY
from orchestrator.core.profile import Accelerator
from orchestrator.profiles.format import DecodeRow, ProfileFile, Row
from orchestrator.yaml_fields import InfeasibleError


def contradictions(file: ProfileFile, accelerators: Mapping[str, Accelerator]) -> Iterator[InfeasibleError]:
    """Yield rows that refer to nothing, come twice, or are of models that their hardware cannot hold."""
    language_model = file.language_model.weights_bytes
    sections: Sequence[tuple[str, Sequence[Row], int]] = (
        ("encode", file.encode.rows, file.encode.weights_bytes),
        ("prefill", file.prefill.rows, language_model),
        ("decode", file.decode.rows, language_model),
    )
    for section, rows, weights_bytes in sections:
        seen: set[tuple[object, ...]] = set()
        classes: set[tuple[str, int]] = set()
        for at, row in enumerate(rows):
            where = (section, "rows", at)
            yield from _references(row, file.sources, accelerators, classes, where)
            yield from _fit(row, weights_bytes, accelerators, where)
            if _identity(row) in seen:
                yield InfeasibleError(f"{row.hardware} with tp {row.tp} comes twice", *where)
            seen.add(_identity(row))
            classes.add((row.hardware, row.tp))
    named = {"image": file.image.source, "language_model": file.language_model.source}
    for key, source in (named | ({"host": file.host.source} if file.host else {})).items():
        if source not in file.sources:
            yield _no_source(source, file.sources, key, "source")


def _references(
    row: Row,
    sources: Mapping[str, str],
    accelerators: Mapping[str, Accelerator],
    classes: set[tuple[str, int]],
    where: tuple[str | int, ...],
) -> Iterator[InfeasibleError]:
    if row.source not in sources:
        yield _no_source(row.source, sources, *where, "source")
    if row.hardware not in accelerators:
        known = ", ".join(sorted(accelerators))
        yield InfeasibleError(f"{row.hardware} is not among the accelerators: {known}", *where, "hardware")
    if row.like and (row.like.hardware, row.like.tp) not in classes:
        yield InfeasibleError(f"no row above is of {row.like.hardware} with tp {row.like.tp}", *where, "like")


def _fit(
    row: Row, weights_bytes: int, accelerators: Mapping[str, Accelerator], where: tuple[str | int, ...]
) -> Iterator[InfeasibleError]:
    if row.hardware in accelerators:
        usable = accelerators[row.hardware].memory_bytes * row.tp * USABLE_MEMORY
        if weights_bytes > usable:
            yield InfeasibleError(
                f"weights of {weights_bytes / 1e9:.1f} GB do not fit the {usable / 1e9:.1f} GB usable of "
                f"{row.tp} × {row.hardware}",
                *where,
                "tp",
            )


def _no_source(source: str, sources: Mapping[str, str], *where: str | int) -> InfeasibleError:
    return InfeasibleError(f"{source} is not a key of sources: {', '.join(sources)}", *where)


def _identity(row: Row) -> tuple[object, ...]:
    """Rows of one class differ in context, if they are of decode, else there is one."""
    context = row.context_tokens if isinstance(row, DecodeRow) else None
    return (row.hardware, row.tp, context)
