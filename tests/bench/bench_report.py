"""How soon the report of 200 rows can be read and used, in headless Chromium.

python tests/bench/bench_report.py
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "pipeline"), str(Path(__file__).parents[1])]

import measured_runs  # noqa: E402
from playwright import sync_api  # noqa: E402

from qpipe.report.run_content import read_content  # noqa: E402
from qpipe.report.run_report import report_page  # noqa: E402
from qpipe.storage.results import Store  # noqa: E402

ROWS = 200
REPEATS = 7
ALL_DRAWN = "document.querySelectorAll('.chart:not([data-state=drawn])').length === 0"
FIRST_DRAWN = "document.querySelector('.chart[data-state=drawn]') !== null"


def write_page(folder: Path) -> Path:
    rows = [measured_runs.Row("float32", 9.0, 0.89, 13.9, 124.0)]
    rows += [
        measured_runs.Row(f"scheme-{n:03d}", 3 + n / 50, 0.6 + n / 800, 3.6, 80 + n / 10)
        for n in range(ROWS - 1)
    ]
    with Store(folder / "many.db") as store:
        run = measured_runs.new_run(store)
        measured_runs.add_device(store, run, "pi5", rows=rows)
        page = report_page(read_content(store, run))
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    return file


def measure(browser: sync_api.Browser, file: Path) -> list[float]:
    """Seconds to the tables, to a sorted table, to the first chart and to all charts."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    started = time.perf_counter()
    page.goto(file.as_uri(), wait_until="commit")
    page.wait_for_selector("#numbers ~ .scroll tbody tr:last-child")
    times = [time.perf_counter() - started]
    page.wait_for_function(FIRST_DRAWN, timeout=60_000)
    times.append(time.perf_counter() - started)
    clicked = time.perf_counter()
    page.get_by_role("button", name="memory MB").click()
    page.wait_for_selector("th[aria-sort=ascending]")
    times.append(time.perf_counter() - clicked)
    page.wait_for_function(ALL_DRAWN, timeout=60_000)
    times.append(time.perf_counter() - started)
    page.close()
    return times


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_api.sync_playwright() as playwright:
        file = write_page(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        measure(browser, file)  # the first starts the browser's processes
        runs = [measure(browser, file) for _ in range(REPEATS)]
        print(f"{ROWS} rows, {file.stat().st_size / 1e6:.1f} MB, median of {REPEATS} (longest):")
        names = ("all rows are shown", "the first chart is drawn", "a table is sorted", "all charts are drawn")  # fmt: skip
        for name, values in zip(names, zip(*runs, strict=True), strict=True):
            print(f"  {name}: {statistics.median(values):.2f} s ({max(values):.2f})")
        browser.close()


if __name__ == "__main__":
    main()
