"""A recipe with the schemes that a search has found, as a file that runs by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from qpipe.errors import QpipeError, shown
from qpipe.recipe.yaml_document import Document

WIDTH = 100  # characters of a line


def with_schemes(source: Document, schemes: Mapping[str, Sequence[Any]]) -> Document:
    """Return the recipe with further schemes, and with the text of that."""
    root = {**source.root, "schemes": {**source.root["schemes"], **schemes}}
    text = yaml.safe_dump(_plain(root), sort_keys=False, width=WIDTH, default_flow_style=None)
    return replace(source, root=root, text=text)


def write(path: Path, document: Document, comment: str) -> None:
    """Write a recipe with a comment at its beginning; raise QpipeError where that fails."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    aside = path.with_name(f"{path.name}.new")
    try:
        aside.write_text(lines + document.text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise QpipeError(
            f"{shown(path)}: cannot be written: {reason}; give another file with --out"
        ) from error


def _plain(value: Any) -> Any:
    """Return a value of a document in the types that YAML has."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, str) else value
