"""The parts of the reference that are made from code: `make docs` writes them into its pages.

Each function returns Markdown, for cog. Lint fails where a page is older than the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import typer.main

import qpipe
from qpipe import hookspecs
from qpipe.cli.app import app
from qpipe.cli.describe import yaml_text
from qpipe.cli.stage_list import all_stages
from qpipe.recipe import json_schema
from qpipe.report.json_documents import json_schemas
from qpipe.stages import registry
from qpipe.stages.options import needs, options
from qpipe.stages.registry import KINDS, Stage
from qpipe.storage.migrations import MIGRATIONS

DISTRIBUTION = "qpipe-edge"
INVENTORY_KINDS = ("device", "power")


# ---- stages


def stage_table() -> str:
    """Return all built-in stages, drivers and power switches, a row each."""
    rows = [(stage.kind, _stage_link(stage), stage.help) for stage in _builtin_stages()]
    return _table(("kind", "stage", "what it does"), rows)


def stages_of(kind: str) -> str:
    """Return the stages of a kind: docstring, what each needs, and its options."""
    parts = [_stage_section(stage) for stage in _builtin_stages() if stage.kind == kind]
    return "\n".join(parts)


def _builtin_stages() -> list[Stage]:
    loaded = registry.load()
    found = [stage for stage in all_stages(loaded) if stage.distribution == DISTRIBUTION]
    kinds = (*KINDS, *INVENTORY_KINDS)
    return sorted(found, key=lambda stage: (kinds.index(stage.kind), stage.name))


def _stage_link(stage: Stage) -> str:
    return f"[`{stage.name}`](#{stage.kind}-{stage.name})"


def _stage_section(stage: Stage) -> str:
    lines = [f"### {stage.kind} `{stage.name}`", ""]
    lines += [_escape(inspect.getdoc(stage.function) or ""), ""]
    if stage.kind not in INVENTORY_KINDS:
        names = ", ".join(f"`{name}`" for name in needs(stage.function))
        lines += [f"Needs: {names or 'nothing'}.", ""]
    rows = [
        (f"`{option.name}`", option.describe(), _default(option))
        for option in options(stage.function).values()
    ]
    lines += [_table(("option", "type", "default"), rows) if rows else "No options.\n"]
    return "\n".join(lines)


def _default(option: Any) -> str:
    return "required" if option.required else f"`{yaml_text(option.default)}`"


# ---- recipes


def recipe_keys() -> str:
    """Return the keys of a recipe, a row each."""
    schema = json_schema.recipe(registry.load())
    required = schema["required"]
    rows = []
    for key, described in schema["properties"].items():
        mark = "yes" if key in required else ""
        rows.append((f"`{key}`", _escape(described["description"]), mark))
    return _table(("key", "what it holds", "required"), rows)


# ---- commands


def command_table() -> str:
    """Return all commands with the first line of their help."""
    rows = [
        (f"[`{name}`](#{_anchor(name)})", _first_line(command.help or ""))
        for name, command in _commands()
    ]
    return _table(("command", "what it does"), rows)


def command_sections() -> str:
    """Return each command: its help, arguments and options."""
    parts = []
    for name, command in _commands():
        usage = " ".join([name, *_argument_words(command)])
        lines = [f"### `{name}`", "", "```text", usage, "```", ""]
        lines += [_escape(inspect.cleandoc(command.help or "")), ""]
        rows = [_parameter_row(parameter) for parameter in command.params]
        shown_rows = [row for row in rows if row is not None]
        if shown_rows:
            lines += [_table(("argument or option", "what it is", "default"), shown_rows)]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _commands() -> list[tuple[str, Any]]:
    """Return all that can be called, by its words, in the order of help."""
    found: list[tuple[str, Any]] = []
    left: list[tuple[str, Any]] = [("qpipe", typer.main.get_command(app))]
    while left:
        name, command = left.pop(0)
        subcommands = getattr(command, "commands", {})
        if name != "qpipe" and (not subcommands or command.invoke_without_command):
            found.append((name, command))
        left[:0] = [(f"{name} {word}", sub) for word, sub in subcommands.items()]
    return found


def _argument_words(command: Any) -> list[str]:
    words = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            word = (parameter.name or "").upper() + ("..." if parameter.nargs == -1 else "")
            words.append(word if parameter.required else f"[{word}]")
    return [*words, "[OPTIONS]"]


def _parameter_row(parameter: Any) -> tuple[str, str, str] | None:
    if parameter.name == "help":
        return None
    if parameter.param_type_name == "argument":
        name = f"`{(parameter.name or '').upper()}`"
    else:
        name = ", ".join(f"`{word}`" for word in parameter.opts)
        if parameter.metavar:
            name += f" {_escape(parameter.metavar)}"
    default = parameter.default
    is_shown = default not in (None, False, [], ()) and not callable(default)
    return (name, _escape(parameter.help or ""), f"`{default}`" if is_shown else "")


# ---- Python


def exported(*names: str) -> str:
    """Return names of the package `qpipe`: signature and docstring."""
    parts = [_exported_section(f"qpipe.{name}", getattr(qpipe, name)) for name in names]
    return "\n".join(parts)


def _exported_section(name: str, value: Any) -> str:
    lines = [f"### `{name}`", ""]
    if not inspect.isclass(value):
        lines += ["```py", _signature(name, value), "```", ""]
    lines += [_escape(inspect.getdoc(value) or ""), ""]
    if inspect.isclass(value):
        members = [_member_row(value, member) for member in _public_members(value)]
        if members:
            lines += [_table(("", ""), members)]
    return "\n".join(lines)


def _public_members(cls: type) -> list[str]:
    fields = list(inspect.get_annotations(cls))
    methods = [name for name, value in vars(cls).items() if _is_documented(value)]
    names = dict.fromkeys([*fields, *methods])
    return [name for name in names if not name.startswith("_")]


def _is_documented(value: Any) -> bool:
    return isinstance(value, property) or inspect.isfunction(value)


def _member_row(cls: type, name: str) -> tuple[str, str]:
    value = vars(cls).get(name)
    if inspect.isfunction(value):
        text = _signature(name, value).replace("\n", " ")
        return (f"`{text}`", _escape(_first_line(inspect.getdoc(value) or "")))
    if isinstance(value, property):
        return (f"`{name}`", _escape(_first_line(inspect.getdoc(value) or "")))
    annotation = inspect.get_annotations(cls).get(name, "")
    return (f"`{name}: {annotation}`".replace("|", "\\|"), "")


def hook_sections() -> str:
    """Return each hook with its exact arguments, and what it registers with."""
    parts = []
    for name, value in vars(hookspecs).items():
        if hasattr(value, "qpipe_spec"):
            parts += [_function_section(name, value)]
    for name in ("Register", "RegisterDevice", "RegisterPower", "Enrol"):
        protocol = getattr(hookspecs, name)
        call = protocol.__call__
        parts += [_function_section(name, call, inspect.getdoc(protocol) or "")]
    return "\n".join(parts)


def _function_section(name: str, function: Callable[..., Any], doc: str = "") -> str:
    text = _escape(doc or inspect.getdoc(function) or "")
    signature = _signature(name, function)
    return "\n".join([f"### `{name}`", "", "```py", signature, "```", "", text, ""])


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [value for key, value in signature.parameters.items() if key != "self"]
    shown = signature.replace(parameters=parameters)
    # annotations are texts, which are shown in quotes
    text = re.sub(r"(: |-> )'([^']+)'", r"\1\2", f"{name}{shown}")
    if len(text) <= 100:
        return text
    opening, _, rest = text.partition("(")
    inside, _, ending = rest.rpartition(")")
    arguments = re.split(r", (?=[\w*]+(?::|,|$))", inside)
    return opening + "(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")" + ending


# ---- JSON


def document(name: str, without: str = "") -> str:
    """Return the objects of a JSON document, outermost first: a table of fields each.

    Those of the document `without` are explained there.
    """
    schema = json_schemas()[name]
    definitions = schema["$defs"]
    parts = [_object_section(schema)]
    elsewhere = json_schemas()[without] if without else {}
    titles = definitions.keys() - elsewhere.get("$defs", {}).keys() - {elsewhere.get("title")}
    parts += [_object_section(definitions[title]) for title in sorted(titles)]
    return "\n".join(parts)


def _object_section(schema: Mapping[str, Any]) -> str:
    rows = []
    for field, described in schema["properties"].items():
        optional = "" if field in schema["required"] else " (optional)"
        rows.append(
            (f"`{field}`{optional}", _json_type(described), described.get("description", ""))
        )
    heading = f"### {schema['title'].removesuffix('Document')}"
    text = schema.get("description", "")
    return "\n".join([heading, "", text, "", _table(("field", "type", ""), rows)])


def _json_type(schema: Mapping[str, Any]) -> str:
    """Return the type of a field in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2].removesuffix("Document")
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_json_type(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_json_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_json_type(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


# ---- the database


def database_tables() -> str:
    """Return the SQL of tables and views, as the database has it."""
    blocks = [f"```sql\n{sql.strip()}\n```\n" for _, sql in MIGRATIONS]
    return "\n".join(blocks)


# ---- Markdown


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_line(heading), _line(["---"] * len(heading))]
    lines += [_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    flat = [re.sub(r"(?<!\\)\|", r"\\|", cell).replace("\n", " ") for cell in cells]
    return f"| {' | '.join(flat)} |"


def _escape(text: str) -> str:
    """Return text whose brackets are no HTML and whose braces are no attributes of Markdown."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*")
        for part in parts
    ]
    return "".join(plain)


def _first_line(text: str) -> str:
    return inspect.cleandoc(text).partition("\n")[0]


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
