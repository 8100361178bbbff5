"""What may stand in a recipe and in devices.yaml, as JSON Schema (draft 2020-12), for editors that complete and check.

It follows what is installed: every stage by its name, with its options. `${variable}` may stand wherever a value does.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from qpipe.recipe import yaml_document
from qpipe.stages.options import Option, options
from qpipe.stages.registry import DEMANDS, KINDS, Registry, Stage
from qpipe.types import Emulation

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
NAME = {"type": "string", "pattern": f"^{yaml_document.NAME.pattern}$"}
VARIABLE: Schema = {"$ref": "#/$defs/variable"}
VARIABLES: Schema = {
    "type": "string",
    "pattern": r"\$\{[^}]*\}",
    "description": "${name} of `variables`, or ${env:NAME}",
}
WAY: Schema = {"enum": ["min", "max"]}
MARGIN: Schema = {
    "anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, {"type": "string"}]
}
WITH_MARGIN: dict[str, Schema] = {"goal": WAY, "margin": MARGIN}
GOAL: Schema = {
    "anyOf": [
        WAY,
        {
            "type": "object",
            "properties": WITH_MARGIN,
            "required": [*WITH_MARGIN],
            "additionalProperties": False,
        },
    ]
}
NUMBERS: dict[str, Schema] = {
    "value": {"type": "number"},
    "tolerance": {"type": "number", "minimum": 0},
}
LISTS = (list, tuple, Sequence)


def recipe(plugins: Registry) -> Schema:
    """The schema of a recipe."""
    definitions = _Definitions()
    for kind in KINDS:
        definitions.add(
            kind, [stage for (of, _), stage in sorted(plugins.stages.items()) if of == kind]
        )
    definitions.schemas["import"] = _import(definitions.schemas["import"])
    definitions.schemas["expected"] = {
        "type": "object",
        "properties": {k: _or_variable(v) for k, v in NUMBERS.items()},
        "required": list(NUMBERS),
        "additionalProperties": False,
    }
    own_samples = {"additionalProperties": {"type": "object", "required": ["samples"]}}
    return {
        "$schema": DRAFT,
        "title": "qpipe recipe",
        "type": "object",
        "properties": _keys(),
        "required": ["models", "schemes", "measure"],
        "anyOf": [{"required": ["samples"]}, {"properties": {"models": own_samples}}],
        "additionalProperties": False,
        "$defs": definitions.schemas,
    }


def inventory(plugins: Registry) -> Schema:
    """The schema of devices.yaml."""
    definitions = _Definitions()
    definitions.add("device", [plugins.devices[name] for name in sorted(plugins.devices)])
    target: Schema = {
        "description": "what quantization must respect there, over what is found",
        "type": "object",
        "properties": {name: _or_variable({"type": "boolean"}) for name in DEMANDS},
        "additionalProperties": False,
    }
    emulated: Schema = {
        "description": "its clock is that of the machine it is emulated on, or counts instructions; false for hardware",
        "enum": [*get_args(Emulation), False],
    }
    definitions.add("power", [plugins.powers[name] for name in sorted(plugins.powers)])
    power: Schema = {
        **_call("power"),
        "description": "what switches its current off and on, after it died",
    }
    beside = {"target": target, "emulated": emulated, "power": power}
    definitions.schemas["device"] = _accompanied(definitions.schemas["device"], beside)
    return {
        "$schema": DRAFT,
        "title": "qpipe devices",
        "type": "object",
        "propertyNames": NAME,
        "additionalProperties": _call("device"),
        "$defs": definitions.schemas,
    }


# ---- keys


def _keys() -> dict[str, Schema]:
    link = [_call("transform"), _call("quantize")]
    chain = {"anyOf": [*link, {"type": "null"}, {"type": "array", "items": {"anyOf": link}}]}
    expected = {"type": "object", "additionalProperties": _call("expected")}
    described: dict[str, tuple[str, Schema]] = {
        "name": ("what results are stored under; the file's name otherwise", NAME),
        "plugins": (
            "Python files with stages of your own, relative to the recipe",
            _list({"type": "string"}),
        ),
        "variables": ("values used as ${name}, changed with --set NAME=VALUE", {"type": "object"}),
        "samples": ("what the networks are calibrated and evaluated on", _call("samples")),
        "models": (
            "the float networks; one may bring `samples` of its own",
            _named(_call("import")),
        ),
        "calibrate": ("what gathers the statistics of activations", _call("calibrate")),
        "schemes": ("chains of transform stages, then quantize stages; [] is float", _named(chain)),
        "builds": ("what compiles each quantized network", _named(_call("compile"))),
        "deploy": ("how a build gets onto a device", _call("deploy")),
        "measure": ("what is measured of each deployed build", _list(_call("measure"))),
        "devices": ("names of devices.yaml; local is this machine", _list(NAME)),
        "pareto": (
            "the objectives: metrics, which way is better, and from which margin on",
            _named(GOAL, {}),
        ),
        "expect": (
            "what the float network must score before anything is quantized: metrics, or metrics by model",
            {"anyOf": [expected, {"type": "object", "additionalProperties": expected}]},
        ),
    }
    return {
        key: {"description": text, **_or_variable(schema)}
        for key, (text, schema) in described.items()
    }


def _named(schema: Schema, names: Schema = NAME) -> Schema:
    return {
        "type": "object",
        "propertyNames": names,
        "minProperties": 1,
        "additionalProperties": _or_variable(schema),
    }


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": _or_variable(schema)}


def _call(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _import(call: Schema) -> Schema:
    own: Schema = {**_call("samples"), "description": "samples of this model alone"}
    return _accompanied(call, {"samples": own})


def _accompanied(call: Schema, beside: Mapping[str, Schema]) -> Schema:
    """A call that may be written beside settings of its own, as `{onnx: {...}, samples: {...}}`."""
    written = call["anyOf"][-1]
    names = list(written["properties"])
    with_them = {
        **{key: value for key, value in written.items() if key != "maxProperties"},
        "properties": {**written["properties"], **beside},
        "oneOf": [{"required": [name]} for name in names],
    }
    return {**call, "anyOf": [*call["anyOf"][:-1], with_them]}


# ---- stages and their options


class _Definitions:
    """Collects a schema for each kind of stage, and what types of options define besides."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {"variable": VARIABLES}

    def add(self, kind: str, stages: Sequence[Stage]) -> None:
        """The one grammar of a stage: `name`, or `{name: {options}}`; or a variable."""
        bare = [
            stage
            for stage in stages
            if not any(o.required for o in options(stage.function).values())
        ]
        words: list[Schema] = [{"const": stage.name, "description": _doc(stage)} for stage in bare]
        written: Schema = {
            "type": "object",
            "properties": {stage.name: self._stage(stage, stage in bare) for stage in stages},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
        self.schemas[kind] = {"anyOf": [*words, VARIABLE, written]}

    def _stage(self, stage: Stage, may_be_bare: bool) -> Schema:
        own = options(stage.function)
        return {
            "description": _doc(stage),
            "type": ["object", "null"] if may_be_bare else "object",
            "properties": {name: self._option(stage, option) for name, option in own.items()},
            "required": [name for name, option in own.items() if option.required],
            "additionalProperties": False,
        }

    def _option(self, stage: Stage, option: Option) -> Schema:
        if option.stage_kind:
            call = _call(option.stage_kind)
            several = (
                [_list(call)]
                if option.stage_kind == "metric" or _takes_list(option.annotation)
                else []
            )
            nothing = [{"type": "null"}] if _takes_none(option.annotation) else []
            return {"description": option.describe(), "anyOf": [call, *several, *nothing]}
        schema = self._plain(stage, option)
        told = {"description": option.describe()}
        if "default" in schema:
            told["default"] = _jsonable(schema.pop("default"))
        return {**told, **_or_variable(_open(schema))}

    def _plain(self, stage: Stage, option: Option) -> Schema:
        from pydantic import PydanticUserError

        try:
            schema = option.schema()
        except PydanticUserError:
            return {}  # a type of somebody's own that has none: anything may stand there
        prefix = f"{stage.kind}.{stage.name}.{option.name}."
        moved: Schema = _moved(schema, prefix)
        self.schemas |= {prefix + name: _open(own) for name, own in moved.pop("$defs", {}).items()}
        return moved


def _doc(stage: Stage) -> str:
    return inspect.getdoc(stage.function) or ""


def _takes_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return (
        annotation in LISTS or origin in LISTS or any(map(_takes_list, typing.get_args(annotation)))
    )


def _takes_none(annotation: Any) -> bool:
    return annotation is type(None) or any(map(_takes_none, typing.get_args(annotation)))


def _moved(schema: Any, prefix: str) -> Any:
    """With its references to definitions of its own going to where they are moved."""
    if isinstance(schema, list):
        return [_moved(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, prefix) for key, value in schema.items()}
    if isinstance(moved.get("$ref"), str):
        moved["$ref"] = moved["$ref"].replace("#/$defs/", f"#/$defs/{prefix}", 1)
    return moved


def _open(schema: Any) -> Any:
    """With variables allowed for the values within it: items of lists, values of maps."""
    if not isinstance(schema, dict):
        return schema
    opened = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            opened[key] = _or_variable(_open(schema[key]))
    if isinstance(schema.get("prefixItems"), list):
        opened["prefixItems"] = [_or_variable(_open(item)) for item in schema["prefixItems"]]
    if isinstance(schema.get("properties"), dict):
        opened["properties"] = {
            name: _or_variable(_open(own)) for name, own in schema["properties"].items()
        }
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list):
            opened[key] = [_open(branch) for branch in schema[key]]
    return opened


def _or_variable(schema: Schema) -> Schema:
    return {"anyOf": [schema, VARIABLE]}


def _jsonable(value: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
