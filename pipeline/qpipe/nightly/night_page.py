"""The page of a night: HTML for the morning, Markdown for a chat, JUnit XML for CI."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from xml.etree import ElementTree as ET

from qpipe.nightly.night import NightReport
from qpipe.report.junit import xml_document, xml_text
from qpipe.storage.rows import FindingRow, FindingState

PAGE = "index.html"
MARKDOWN = "night.md"
JUNIT = "junit.xml"
HEADINGS: dict[FindingState, str] = {
    "new": "New",
    "sustained": "Still so",
    "recovered": "Over",
    "flaky": "Seen once, not confirmed",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .3rem; }
ul { padding-left: 1.2rem; } li { margin: .5rem 0; }
.worse { color: #a40000; } .quiet { color: #555; font-size: 13px; }
table { border-collapse: collapse; } th, td { padding: .15rem 1.2rem .15rem 0; text-align: left; }
code { font-size: 13px; background: #8881; padding: .1rem .3rem; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #ddd; } .worse { color: #ff8a80; } .quiet { color: #aaa; }
}
""".strip()


def write_pages(report: NightReport, folder: Path) -> Path:
    """Write the pages of a night into a folder of its own; return that of the morning."""
    place = folder / report.night
    place.mkdir(parents=True, exist_ok=True)
    (place / MARKDOWN).write_text(markdown(report), encoding="utf-8")
    (place / JUNIT).write_text(junit(report), encoding="utf-8")
    page = place / PAGE
    page.write_text(html_page(report), encoding="utf-8")
    return page


def headline(report: NightReport) -> str:
    """Return the night in one line."""
    counts = (
        _count(len(report.regressions), "regression"),
        _count(len(report.failures), "failure"),
        _count(len(report.missed), "omission"),
    )
    return f"{report.lab}, {report.night}: {', '.join(filter(None, counts)) or 'nothing moved'}"


def _count(number: int, noun: str) -> str:
    """Return a number of things in words; "" for none."""
    if not number:
        return ""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def by_state(report: NightReport) -> list[tuple[str, list[FindingRow]]]:
    """Return the findings of a night under their headings, those for the worse first."""
    groups = []
    for state, heading in HEADINGS.items():
        findings = [finding for finding in report.findings if finding["state"] == state]
        if findings:
            groups.append(
                (heading, sorted(findings, key=lambda finding: not finding["is_regression"]))
            )
    return groups


def _facts(finding: FindingRow) -> list[str]:
    """Return what stands below a finding."""
    facts = [f"since {finding['start']}, number {finding['id']}"]
    if finding["evidence"]:
        facts.append(finding["evidence"])
    if finding["beside"]:
        facts.append(f"beside it: {'; '.join(finding['beside'])}")
    elif finding["kind"] == "change" and finding["state"] == "new":
        facts.append("nothing else seems to have changed")
    return facts


# ---- Markdown


def markdown(report: NightReport) -> str:
    """Return the night as Markdown."""
    lines = [f"# {_plain(headline(report))}", ""]
    for heading, findings in by_state(report):
        lines += [f"## {heading}", ""]
        for finding in findings:
            lines.append(f"- **{_plain(finding['text'])}**")
            lines += [f"  - {_plain(fact)}" for fact in _facts(finding)]
            if finding["command"]:
                lines.append(f"  - `{finding['command'].replace('`', '')}`")
        lines.append("")
    if report.missed:
        lines += ["## Not done", "", *(f"- {_plain(omission)}" for omission in report.missed), ""]
    lines.append(_plain(_closing(report)))
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return a text in one line that Markdown shows as it is."""
    line = " ".join(text.split())
    for mark in "\\`*_<>[]#":
        line = line.replace(mark, f"\\{mark}")
    return line


def _closing(report: NightReport) -> str:
    minutes = (report.finished - report.started).total_seconds() / 60
    return (
        f"{report.measured} numbers in {_count(len(report.runs), 'run') or 'no run'}, "
        f"{minutes:.0f} min"
    )


# ---- HTML


def html_page(report: NightReport) -> str:
    """Return the night as one HTML file that loads nothing from elsewhere."""
    title = escape(headline(report))
    sections = [_html_section(heading, findings) for heading, findings in by_state(report)]
    if report.missed:
        items = "".join(f"<li>{escape(omission)}</li>" for omission in report.missed)
        sections.append(f"<h2>Not done</h2>\n<ul>{items}</ul>")
    sections += [_canary_table(report), _run_table(report)]
    body = "\n".join(filter(None, sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title>\n"
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        f'<h1>{title}</h1>\n{body}\n<p class="quiet">{escape(_closing(report))}</p>\n'
        "</body></html>\n"
    )


def _html_section(heading: str, findings: Sequence[FindingRow]) -> str:
    items = "\n".join(_html_finding(finding) for finding in findings)
    return f"<h2>{escape(heading)}</h2>\n<ul>\n{items}\n</ul>"


def _html_finding(finding: FindingRow) -> str:
    holds = finding["state"] in ("new", "sustained")
    kind = "worse" if finding["is_regression"] and holds else "other"
    facts = "<br>".join(escape(fact) for fact in _facts(finding))
    command = f"<br><code>{escape(finding['command'])}</code>" if finding["command"] else ""
    text = f'<strong class="{kind}">{escape(finding["text"])}</strong>'
    return f'<li>{text}<br><span class="quiet">{facts}</span>{command}</li>'


def _canary_table(report: NightReport) -> str:
    rows = []
    for canary in report.canaries:
        value = "" if canary["value"] is None else f"{canary['value']:.4g} ms"
        state = canary["problem"] or ("moved" if canary["moved"] else "as before")
        rows.append((canary["device"], value, state))
    return _table("Canaries", ("device", "time", "state"), rows)


def _run_table(report: NightReport) -> str:
    return _table("Runs", ("recipe", "run"), list(report.runs.items()))


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<h2>{heading}</h2>\n<table><tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"


# ---- JUnit


def junit(report: NightReport) -> str:
    """Return the night as JUnit XML: a case for each finding that holds, and one for the night."""
    failing = [*report.regressions, *report.failures]
    suite = ET.Element(
        "testsuite",
        name=f"qpipe nightly {report.lab}",
        tests=str(len(failing) + 1),
        failures=str(len(failing) + bool(report.missed)),
        timestamp=report.started.isoformat(timespec="seconds"),
        time=f"{(report.finished - report.started).total_seconds():.0f}",
    )
    whole = ET.SubElement(suite, "testcase", classname=report.lab, name="all was done")
    if report.missed:
        ET.SubElement(whole, "failure", message=xml_text("; ".join(report.missed)))
    for finding in failing:
        name = " ".join(filter(None, (finding["subject"], finding["metric"])))
        case = ET.SubElement(suite, "testcase", classname=finding["kind"], name=name)
        failure = ET.SubElement(case, "failure", message=xml_text(finding["text"]))
        failure.text = xml_text("\n".join([*_facts(finding), finding["command"]]))
    return xml_document(suite)
