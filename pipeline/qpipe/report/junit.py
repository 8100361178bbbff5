"""Two compared runs as JUnit XML, which CI shows: a test case for each number of each row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from xml.etree import ElementTree as ET

from qpipe.compare.json_rows import ComparedRow, Comparison
from qpipe.report.comparison_rows import COLUMNS, row_cells

SKIPPED: frozenset[Comparison] = frozenset({"not comparable", "missing"})


def comparison_junit(
    rows: Sequence[ComparedRow], name: str, failing: Collection[Comparison]
) -> str:
    """Return a comparison: rows with a verdict of `failing` fail, incomparable ones are skipped."""
    failures = [row for row in rows if row["verdict"] in failing]
    skipped = [row for row in rows if row["verdict"] in SKIPPED - set(failing)]
    suite = ET.Element(
        "testsuite",
        name=xml_text(name),
        tests=str(len(rows)),
        failures=str(len(failures)),
        skipped=str(len(skipped)),
    )
    for row in rows:
        _add_case(suite, row, failing)
    return xml_document(suite)


def xml_document(root: ET.Element) -> str:
    """Return an element as a file of its own."""
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def xml_text(text: str) -> str:
    """Return a text without the control characters that XML 1.0 has no place for."""
    return "".join(char if char >= " " or char in "\n\t" else "?" for char in text)


def _add_case(suite: ET.Element, row: ComparedRow, failing: Collection[Comparison]) -> None:
    cells = dict(zip(COLUMNS, map(xml_text, row_cells(row)), strict=True))
    case = ET.SubElement(suite, "testcase", classname=cells["row"], name=cells["metric"])
    text = f"{cells['verdict']}: {cells['before']} to {cells['after']} {cells['ratio']}".rstrip()
    if row["verdict"] in failing:
        ET.SubElement(case, "failure", message=text)
    elif row["verdict"] in SKIPPED:
        ET.SubElement(case, "skipped", message=text)
