"""The report in a real browser: it is drawn without an error or a request, and can be used."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import measured_runs
import pytest

from qpipe.report.run_content import read_content
from qpipe.report.run_report import report_page
from qpipe.storage.results import Store

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
ALL_DRAWN = "document.querySelectorAll('.chart:not([data-state=drawn])').length === 0"


@dataclass
class OpenPage:
    """A page in the browser, and what it has done that it should not."""

    page: sync_api.Page
    complaints: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()

    def circle(self, chart: str, name: str) -> sync_api.Locator:
        """The mark of a row in a Pareto chart."""
        return self.page.locator(f"#{chart} path[aria-roledescription=point]").filter(
            has=self.page.locator(f"xpath=self::*[contains(@aria-label, 'scheme: {name};')]")
        )

    def tooltip(self, chart: str, name: str) -> str:
        self.circle(chart, name).hover(force=True)
        return self.page.locator("#vg-tooltip-element.visible").inner_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "results.db"
    with Store(path) as store:
        measured_runs.full_run(store, request={"keep": 3.0, "limits": {"latency_ms": ["<=", 40]}})
    return path


def open_page(
    browser: sync_api.Browser, database: Path, width: int = 1280, scheme: str = "light"
) -> OpenPage:
    """The report of the newest run, after all its charts are drawn."""
    file = database.with_suffix(".html")
    with Store(database) as store:
        file.write_text(report_page(read_content(store, store.runs()[0]["id"])), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = OpenPage(page)
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    page.on("request", lambda request: opened.complaints.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function(ALL_DRAWN, timeout=120_000)
    opened.complaints.remove(file.as_uri())  # the page itself
    return opened


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (800, "light"), (1440, "dark")])
def test_it_is_drawn_without_error_request_or_overflow(
    browser: sync_api.Browser, database: Path, width: int, scheme: str
) -> None:
    opened = open_page(browser, database, width, scheme)
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert len(opened.texts(".chart svg")) == 10
    opened.page.close()


def test_hovering_over_a_mark_shows_every_figure_of_its_row(
    browser: sync_api.Browser, database: Path
) -> None:
    opened = open_page(browser, database)
    text = opened.tooltip("chart-1", "int8-equalized")
    with sqlite3.connect(database) as db:
        query = "SELECT metric, value FROM measurements WHERE device = 'pi5' AND scheme = 'int8-equalized'"
        measured = dict(db.execute(query).fetchall())
    assert set(measured) == {"latency_ms", "top1", "size_mb", "memory_mb", "int8_nodes", "latency_ratio"}  # fmt: skip
    assert f"{measured['latency_ms']:.2f} ±" in text
    assert f"{measured['top1'] * 100:.1f} ±" in text
    for metric in ("size_mb", "latency_ratio"):
        assert f"{measured[metric]:.2f}" in text
    assert f"{measured['memory_mb']:.1f} ±0.3" in text
    opened.page.close()


def test_switching_an_axis_moves_the_marks_and_renames_the_axis(
    browser: sync_api.Browser, database: Path
) -> None:
    opened = open_page(browser, database)
    titles = "#chart-1 .role-axis-title"
    assert opened.texts(titles) == ["latency ms", "top1 %"]
    before = opened.circle("chart-1", "float32").bounding_box()
    opened.page.locator("select[data-chart=chart-1][data-signal=x]").select_option(label="size MB")
    opened.page.wait_for_function(f"document.querySelector('{titles}').textContent === 'size MB'")
    small = opened.circle("chart-1", "int4").bounding_box()
    large = opened.circle("chart-1", "int8-channel").bounding_box()
    after = opened.circle("chart-1", "float32").bounding_box()
    assert before != after
    middles = [box["x"] + box["width"] / 2 for box in (small, large, after)]
    # 2.02, 3.72 and 13.9 MB: the distances along the axis are as the differences
    share = (middles[1] - middles[0]) / (middles[2] - middles[0])
    assert share == pytest.approx((3.72 - 2.02) / (13.9 - 2.02), abs=0.02)
    assert opened.complaints == []
    opened.page.close()


def test_charts_of_several_devices_have_the_same_axes_until_told_otherwise(
    browser: sync_api.Browser, database: Path
) -> None:
    opened = open_page(browser, database)
    charts = ("chart-0", "chart-1")
    labels = [opened.texts(f"#{chart} .role-axis-label text") for chart in charts]
    assert labels[0] == labels[1] != []
    for box in opened.page.locator("input[data-signal=same]").all():
        box.uncheck()
    opened.page.wait_for_timeout(300)
    apart = [opened.texts(f"#{chart} .role-axis-label text") for chart in charts]
    assert apart[0] != apart[1]
    assert opened.complaints == []
    opened.page.close()


def test_a_table_sorts_by_number_and_back(browser: sync_api.Browser, database: Path) -> None:
    opened = open_page(browser, database)
    table = opened.page.locator("#numbers ~ .scroll").first
    heading = table.get_by_role("button", name="x float")
    heading.click()
    column = table.locator("tbody tr td:nth-child(6)")
    ratios = [cell.split()[0] for cell in column.all_inner_texts()]
    assert ratios[-1] == "-"
    assert ratios[:-1] == sorted(ratios[:-1], key=float)
    heading.click()
    back = [cell.split()[0] for cell in column.all_inner_texts()]
    assert back == [*reversed(ratios[:-1]), "-"]
    opened.page.close()


def test_hostile_names_run_nothing(browser: sync_api.Browser, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"']}{{$&"
    rows = [
        measured_runs.Row("float32", 9.0, 0.89, 13.9, 124.0),
        measured_runs.Row(hostile, 4.0, 0.88, 3.6, 82.0),
    ]
    with Store(tmp_path / "hostile.db") as store:
        run = measured_runs.new_run(store, hostile, recipe_text=hostile)
        measured_runs.add_device(store, run, hostile, rows=rows, model=hostile)
    opened = open_page(browser, tmp_path / "hostile.db")
    assert opened.complaints == []
    assert opened.texts("h1") == [hostile]
    assert any(text.startswith("</script><script>") for text in opened.texts("#chart-0 text"))
    mark = opened.page.locator("#chart-0 path[aria-roledescription=point]").last
    mark.hover(force=True)
    assert hostile in opened.page.locator("#vg-tooltip-element.visible").inner_text()
    opened.page.close()


@pytest.mark.slow
def test_two_hundred_rows_are_drawn_and_sort(browser: sync_api.Browser, tmp_path: Path) -> None:
    rows = [measured_runs.Row("float32", 9.0, 0.89, 13.9, 124.0)]
    for number in range(199):
        rows.append(
            measured_runs.Row(
                f"scheme-{number:03d}", 3 + number / 50, 0.6 + number / 800, 3.6, 80 + number / 10
            )
        )
    with Store(tmp_path / "many.db") as store:
        run = measured_runs.new_run(store)
        measured_runs.add_device(store, run, "pi5", rows=rows, has_raw_values=False)
    opened = open_page(browser, tmp_path / "many.db")
    assert opened.complaints == []
    # all of them are on the front: names of all would hide the chart
    named = [text for text in opened.texts("#chart-0 text") if re.match("scheme-|float32", text)]
    assert named == ["float32"]
    opened.page.get_by_role("button", name="memory MB").click()
    first = opened.texts("#numbers ~ .scroll tbody tr:first-child td.name")[0]
    assert re.match("scheme-000", first)
    opened.page.close()
