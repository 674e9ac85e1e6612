"""The section `scaling` of a policy file: a scaling policy and parameters of the class it declares."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from inspect import cleandoc
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
)

from orchestrator.core.infeasible import InfeasibleError
from orchestrator.core.planned import PENDING_TIMEOUT_S
from orchestrator.core.scaling import SCALERS, Params
from orchestrator.core.scaling.periodic import PeriodicParams
from orchestrator.core.scaling.static import StaticParams
from orchestrator.yaml_fields import STRICT, Count, Seconds
from stages.types import Stage

ScalingName = Literal[
    "static",
    "static-best",
    "hpa",
    "independent-tps",
    "latency-only",
    "periodic",
    "heteroscale",
    "modserve",
    "dynamo-like",
    "threshold-or",
    "coupled",
]
DEFAULT: ScalingName = "static"


@cache
def _adapter(policy: str) -> TypeAdapter[Params]:
    """Return what checks a policy's parameters, made when first asked for: a file names one of many."""
    return TypeAdapter(SCALERS[policy].params)


def _no_oracle(name: object) -> object:
    if isinstance(name, str) and name in SCALERS and not SCALERS[name].live:
        raise InfeasibleError(f"`{name}` knows the future: only `tercet compare` can run it")
    return name


def _of_the_policy(value: object, info: ValidationInfo) -> Params:
    """Check parameters by the class of the policy that is named beside them."""
    name = info.data.get("policy")
    if name is None:  # the name is wrong, and that was said
        return Params()
    written = {} if isinstance(value, Params) else value
    return _adapter(name).validate_json(json.dumps(written))


def descriptions(kind: type) -> Mapping[str, str]:
    """Return what the docstrings of a parameters class say of each field, in the order of the fields."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        found |= _attributes(cleandoc(ancestor.__doc__ or ""))
    return found


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry below `Attributes:`."""
    section = text.partition("Attributes:\n")[2]
    for name, body in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE):
        yield name, " ".join(body.split())


def _schema_by_policy(schema: dict[str, Any]) -> None:
    """Replace the section's schema by one variant per policy, with the parameters of its class."""
    name, params = (schema["properties"].pop(key) for key in ("policy", "params"))
    others = schema["properties"]
    del schema["type"], schema["properties"], schema["additionalProperties"]
    schema["oneOf"] = [
        {
            "type": "object",
            "properties": {
                "policy": {"const": policy, "description": name["description"]},
                "params": {**_params_schema(policy), "description": params["description"]},
                **others,
            },
            "required": [] if policy == DEFAULT else ["policy"],
            "additionalProperties": False,
        }
        for policy in name["enum"]
    ]


def _params_schema(policy: str) -> dict[str, Any]:
    """Return the JSON Schema of a policy's parameters, complete in itself and with its fields described."""
    schema = _adapter(policy).json_schema()
    definitions = schema.pop("$defs", {})
    for name, text in descriptions(SCALERS[policy].params).items():
        schema["properties"][name]["description"] = text
    inlined: dict[str, Any] = _inlined(schema, definitions)
    return inlined


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, dict) and "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if isinstance(node, dict):
        return {key: _inlined(child, definitions) for key, child in node.items()}
    return [_inlined(child, definitions) for child in node] if isinstance(node, list) else node


def named_counts(params: Params) -> Iterator[tuple[tuple[str | int, ...], Stage, int]]:
    """Yield the counts that parameters name, each after where it stands and its stage."""
    tables: dict[tuple[str | int, ...], object] = {}
    if isinstance(params, StaticParams):
        tables[()] = params
    if isinstance(params, PeriodicParams):
        tables = {("hours", at): hour for at, hour in enumerate(params.hours)}
    for path, table in tables.items():
        for stage in Stage:
            if (count := getattr(table, stage)) is not None:
                yield (*path, str(stage)), stage, count


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """How replica counts follow the load."""

    __pydantic_config__: ClassVar[ConfigDict] = {**STRICT, "json_schema_extra": _schema_by_policy}

    policy: Annotated[
        ScalingName, BeforeValidator(_no_oracle), Field(description="Name of the scaling policy.")
    ] = DEFAULT
    params: Annotated[
        Params,
        PlainValidator(_of_the_policy, json_schema_input_type=dict),
        PlainSerializer(asdict, return_type=dict),
        Field(description="Its parameters.", validate_default=True),
    ] = field(default_factory=StaticParams)
    budget: Annotated[
        Count | None, Field(description="Accelerators of all stages together at most; null: no limit.")
    ] = None
    pending_timeout_s: Annotated[
        Seconds,
        Field(description="Seconds after which a replica that has not started is given up for another."),
    ] = PENDING_TIMEOUT_S

    def __post_init__(self) -> None:
        wanted = SCALERS[self.policy].params
        if not isinstance(self.params, wanted):
            raise InfeasibleError(f"{self.policy} takes {wanted.__name__}", "params")
