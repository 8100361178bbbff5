"""JSON Schema (draft 2020-12) of recipes and of devices.yaml, for editors that complete and check.

The schema follows what is installed: every stage by name, with its options. A `${variable}` is
allowed wherever a value is.
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
NAME: Schema = {"type": "string", "pattern": f"^{yaml_document.NAME.pattern}$"}
DEVICE: Schema = {"type": "string", "pattern": f"^((tag|all):)?{yaml_document.NAME.pattern}$"}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
TEXT: Schema = {"type": "string"}
NOTHING: Schema = {"type": "null"}
VARIABLE_REFERENCE: Schema = {"$ref": "#/$defs/variable"}
VARIABLE: Schema = {
    "type": "string",
    "pattern": r"\$\{[^}]*\}",
    "description": "${name} of `variables`, or ${env:NAME}",
}
LIST_TYPES = (list, tuple, Sequence)


def recipe(plugins: Registry) -> Schema:
    """Return the schema of a recipe."""
    definitions = _Definitions()
    for kind in KINDS:
        names = plugins.names(kind)
        definitions.add_kind(kind, [plugins.stages[kind, name] for name in names])
    model_samples: Schema = {**_reference("samples"), "description": "samples of this model alone"}
    definitions.schemas["import"] = _with_companions(
        definitions.schemas["import"], {"samples": model_samples}
    )
    sweep = _sweep()
    for kind in ("transform", "quantize"):
        definitions.schemas[kind] = _with_companions(definitions.schemas[kind], {"sweep": sweep})
    definitions.schemas["expected"] = _expected_score()
    each_model_has_samples = {"additionalProperties": {"type": "object", "required": ["samples"]}}
    return {
        "$schema": DRAFT,
        "title": "qpipe recipe",
        "type": "object",
        "properties": _recipe_keys(),
        "required": ["models", "schemes", "measure"],
        "anyOf": [
            {"required": ["samples"]},
            {"properties": {"models": each_model_has_samples}},
        ],
        "additionalProperties": False,
        "$defs": definitions.schemas,
    }


def inventory(plugins: Registry) -> Schema:
    """Return the schema of devices.yaml."""
    definitions = _Definitions()
    definitions.add_kind("device", [plugins.devices[name] for name in sorted(plugins.devices)])
    definitions.add_kind("power", [plugins.powers[name] for name in sorted(plugins.powers)])
    definitions.schemas["device"] = _with_companions(
        definitions.schemas["device"], _device_settings()
    )
    return {
        "$schema": DRAFT,
        "title": "qpipe devices",
        "type": "object",
        "propertyNames": NAME,
        "additionalProperties": _reference("device"),
        "$defs": definitions.schemas,
    }


# ---- keys


def _recipe_keys() -> dict[str, Schema]:
    link = [_reference("transform"), _reference("quantize")]
    chain = {"anyOf": [*link, NOTHING, {"type": "array", "items": {"anyOf": link}}]}
    expected_scores = {"type": "object", "additionalProperties": _reference("expected")}
    scores_by_model = {"type": "object", "additionalProperties": expected_scores}
    keys: dict[str, tuple[str, Schema]] = {
        "name": ("the name under which results are stored; by default the file's name", NAME),
        "plugins": (
            "Python files with stages of your own, relative to the recipe",
            _list_of(TEXT),
        ),
        "variables": ("values used as ${name}, changed with --set NAME=VALUE", {"type": "object"}),
        "samples": ("the data for calibration and evaluation", _reference("samples")),
        "models": (
            "the float networks; each may have `samples` of its own",
            _map_of(_reference("import")),
        ),
        "calibrate": (
            "the stage that gathers statistics of activations",
            _reference("calibrate"),
        ),
        "schemes": (
            "chains of transform stages, then quantize stages; [] is the float network",
            _map_of(chain),
        ),
        "builds": ("the stages that compile each network", _map_of(_reference("compile"))),
        "deploy": ("the stage that brings a build to a device", _reference("deploy")),
        "measure": ("the measurements of each deployed build", _list_of(_reference("measure"))),
        "devices": (
            "names of devices.yaml, tag:NAME for any one of those with a tag, all:NAME for each of "
            "them; local is this machine",
            _list_of(DEVICE),
        ),
        "pareto": (
            "the objectives: metrics with min or max, and optionally a margin",
            _map_of(_objective(), names={}),
        ),
        "keep": (
            "what a scheme to ship may lose of the accuracy objective against float: points of a "
            "share, percent of float's value otherwise",
            {"anyOf": [{"type": "number", "minimum": 0, "maximum": 100}, TEXT]},
        ),
        "expect": (
            "what the float network must score before anything is quantized: by metric, or by "
            "model and metric",
            {"anyOf": [expected_scores, scores_by_model]},
        ),
        "cache": (
            "a folder in which users leave results for each other, as on a cluster, and those "
            "whose results are taken; or a URL, as of S3 or SSH, at which machines do",
            _sharing(),
        ),
        "cluster": (
            "the Dask scheduler whose workers carry out steps of the host: tcp://HOST:8786, or "
            "local for one that is started here",
            TEXT,
        ),
    }
    return {
        key: {"description": description, **_or_variable(schema)}
        for key, (description, schema) in keys.items()
    }


def _expected_score() -> Schema:
    properties = {
        "value": _or_variable(NUMBER),
        "tolerance": _or_variable({"type": "number", "minimum": 0}),
    }
    return _closed_object(properties, required=list(properties))


def _sweep() -> Schema:
    values = _or_variable({"type": "array", "minItems": 1})
    return {
        "description": "options with a list of values each: the scheme is there once for each "
        "combination",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": values,
    }


def _sharing() -> Schema:
    properties = {"shared": _or_variable(TEXT), "users": _list_of(TEXT)}
    folder = _closed_object(properties, required=["shared"])
    url = _closed_object({"url": _or_variable(TEXT)}, required=["url"])
    return {"anyOf": [folder, url]}


def _objective() -> Schema:
    goal: Schema = {"enum": ["min", "max"]}
    fraction: Schema = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    margin: Schema = {"anyOf": [fraction, TEXT]}
    with_margin = _closed_object({"goal": goal, "margin": margin}, required=["goal", "margin"])
    return {"anyOf": [goal, with_margin]}


def _device_settings() -> dict[str, Schema]:
    """Return the schemas of what may stand beside a device's driver."""
    demands = {name: _or_variable(BOOLEAN) for name in DEMANDS}
    target = _closed_object(demands)
    target["description"] = "what quantization must respect there; overrides what is detected"
    emulated: Schema = {
        "description": "whether its clock is that of the machine that emulates it (wall) or counts "
        "instructions; false for hardware",
        "enum": [*get_args(Emulation), False],
    }
    power: Schema = {
        **_reference("power"),
        "description": "the switch that turns its power off and on after a failure",
    }
    tags: Schema = {
        **_list_of(NAME),
        "description": "names that it shares with others: recipes take any of them by tag:NAME",
    }
    return {"target": target, "emulated": emulated, "power": power, "tags": tags}


def _closed_object(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    if required:
        schema["required"] = list(required)
    return schema


def _map_of(schema: Schema, names: Schema = NAME) -> Schema:
    return {
        "type": "object",
        "propertyNames": names,
        "minProperties": 1,
        "additionalProperties": _or_variable(schema),
    }


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": _or_variable(schema)}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _with_companions(call: Schema, companions: Mapping[str, Schema]) -> Schema:
    """Allow settings beside a call, as in `{onnx: {...}, samples: {...}}`."""
    *alternatives, written = call["anyOf"]
    stage_names = list(written["properties"])
    extended = {key: value for key, value in written.items() if key != "maxProperties"}
    extended["properties"] = {**written["properties"], **companions}
    extended["oneOf"] = [{"required": [name]} for name in stage_names]
    return {**call, "anyOf": [*alternatives, extended]}


# ---- stages and their options


class _Definitions:
    """The schemas of each kind of stage, and those that the types of options define."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {"variable": VARIABLE}

    def add_kind(self, kind: str, stages: Sequence[Stage]) -> None:
        """Add the grammar of a stage: `name`, `{name: {options}}`, or a variable."""
        without_options = [stage for stage in stages if not _has_required_option(stage)]
        names: list[Schema] = [
            {"const": stage.name, "description": _description(stage)} for stage in without_options
        ]
        written = _closed_object({stage.name: self._stage(stage) for stage in stages})
        written["minProperties"] = 1
        written["maxProperties"] = 1
        self.schemas[kind] = {"anyOf": [*names, VARIABLE_REFERENCE, written]}

    def _stage(self, stage: Stage) -> Schema:
        stage_options = options(stage.function)
        required = [name for name, option in stage_options.items() if option.required]
        properties = {name: self._option(stage, option) for name, option in stage_options.items()}
        return {
            "description": _description(stage),
            "type": "object" if required else ["object", "null"],
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _option(self, stage: Stage, option: Option) -> Schema:
        if option.stage_kind:
            return _stage_option(option, option.stage_kind)
        schema = self._plain_option(stage, option)
        described: Schema = {"description": option.describe()}
        if "default" in schema:
            described["default"] = _jsonable(schema.pop("default"))
        return {**described, **_or_variable(_allow_variables(schema))}

    def _plain_option(self, stage: Stage, option: Option) -> Schema:
        from pydantic import PydanticUserError

        try:
            schema = option.schema()
        except PydanticUserError:
            return {}  # a foreign type without a schema: any value is allowed
        prefix = f"{stage.kind}.{stage.name}.{option.name}."
        moved: Schema = _prefix_references(schema, prefix)
        for name, definition in moved.pop("$defs", {}).items():
            self.schemas[prefix + name] = _allow_variables(definition)
        return moved


def _stage_option(option: Option, kind: str) -> Schema:
    """Return the schema of an option that takes stages of a kind."""
    alternatives = [_reference(kind)]
    if kind == "metric" or _takes_list(option.annotation):
        alternatives.append(_list_of(_reference(kind)))
    if _takes_none(option.annotation):
        alternatives.append(NOTHING)
    return {"description": option.describe(), "anyOf": alternatives}


def _has_required_option(stage: Stage) -> bool:
    return any(option.required for option in options(stage.function).values())


def _description(stage: Stage) -> str:
    return inspect.getdoc(stage.function) or ""


def _takes_list(annotation: Any) -> bool:
    if annotation in LIST_TYPES or typing.get_origin(annotation) in LIST_TYPES:
        return True
    return any(map(_takes_list, typing.get_args(annotation)))


def _takes_none(annotation: Any) -> bool:
    return annotation is type(None) or any(map(_takes_none, typing.get_args(annotation)))


def _prefix_references(schema: Any, prefix: str) -> Any:
    """Return a schema whose references to its own definitions have a prefix."""
    if isinstance(schema, list):
        return [_prefix_references(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    prefixed = {key: _prefix_references(value, prefix) for key, value in schema.items()}
    if isinstance(prefixed.get("$ref"), str):
        prefixed["$ref"] = prefixed["$ref"].replace("#/$defs/", f"#/$defs/{prefix}", 1)
    return prefixed


def _allow_variables(schema: Any) -> Any:
    """Return a schema that allows variables for the values within: items of lists and of maps."""
    if not isinstance(schema, dict):
        return schema
    opened = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            opened[key] = _or_variable(_allow_variables(schema[key]))
    if isinstance(schema.get("prefixItems"), list):
        opened["prefixItems"] = [
            _or_variable(_allow_variables(item)) for item in schema["prefixItems"]
        ]
    if isinstance(schema.get("properties"), dict):
        opened["properties"] = {
            name: _or_variable(_allow_variables(value))
            for name, value in schema["properties"].items()
        }
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list):
            opened[key] = [_allow_variables(branch) for branch in schema[key]]
    return opened


def _or_variable(schema: Schema) -> Schema:
    return {"anyOf": [schema, VARIABLE_REFERENCE]}


def _jsonable(value: Any) -> Any:
    """Return a default value as JSON."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
