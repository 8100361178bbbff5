"""What `--json` prints of searches and of `qpipe doctor`, and the schemas of all such objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from qpipe.compare.json_rows import DESCRIBED
from qpipe.report.run_document import (
    COMPARISON_SCHEMA,
    RUN_SCHEMA,
    ComparisonDocument,
    RunDocument,
)

SEARCH_SCHEMA: Literal["qpipe.search/1"] = "qpipe.search/1"
DOCTOR_SCHEMA: Literal["qpipe.doctor/1"] = "qpipe.doctor/1"
SearchSchema = Literal["qpipe.search/1"]
DoctorSchema = Literal["qpipe.doctor/1"]


@with_config(DESCRIBED)
class DiscoveryDocument(TypedDict):
    """A scheme that the recipe does not have, and that is on the front of a device."""

    scheme: str
    device: str
    dominated_by: list[str]
    """Schemes of the recipe that are shown to be no worse in anything and better in something."""
    dominates: list[str]


@with_config(DESCRIBED)
class SearchDocument(TypedDict):
    """What `qpipe search --json` prints."""

    schema: SearchSchema
    recipe: str
    """The file that was written: the recipe with what was found."""
    run: RunDocument
    """The run that measured the best on the devices, as `qpipe run --json` prints it."""
    discoveries: list[DiscoveryDocument]


@with_config(DESCRIBED)
class FindingDocument(TypedDict):
    """One thing that was checked."""

    area: Literal["machine", "extras", "plugins", "workspace", "devices"]
    state: Literal["ok", "warning", "bad"]
    what: str
    said: str
    """What is so; where it is not right, what to do."""


@with_config(DESCRIBED)
class DoctorDocument(TypedDict):
    """What `qpipe doctor --json` prints."""

    schema: DoctorSchema
    state: Literal["ok", "warning", "bad"]
    """The worst of all."""
    findings: list[FindingDocument]


def json_schemas() -> dict[str, Mapping[str, Any]]:
    """Return the JSON Schema of each kind of object, by its name and version."""
    return {
        RUN_SCHEMA: TypeAdapter(RunDocument).json_schema(),
        COMPARISON_SCHEMA: TypeAdapter(ComparisonDocument).json_schema(),
        SEARCH_SCHEMA: TypeAdapter(SearchDocument).json_schema(),
        DOCTOR_SCHEMA: TypeAdapter(DoctorDocument).json_schema(),
    }
