"""LAB.yaml: what is in it, what is said of it, and what --init writes."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from scratch_lab import LabShell

from qpipe.errors import RecipeError
from qpipe.nightly.lab_file import read_lab


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("", encoding="utf-8")
    return tmp_path


def read(text: str):
    Path("lab.yaml").write_text(text, encoding="utf-8")
    return read_lab(Path("lab.yaml"))


def test_a_lab_has_recipes_with_their_devices_and_settings() -> None:
    lab = read(
        "recipes: [a.yaml, {recipe: ./a.yaml, devices: 'all:pi', set: {bits: 4}}]\ndevices: [one]"
    )
    first, second = lab.recipes
    assert (lab.name, first.devices, second.devices) == ("lab", ["one"], ["all:pi"])
    assert second.settings == {"bits": "4"}
    assert (lab.until, lab.keep_raw, lab.inventory) == (None, None, None)


@pytest.mark.parametrize(
    ("until", "start", "end"),
    [
        ("'06:00'", "2026-11-01T22:00", "2026-11-02T06:00"),
        ("06:00", "2026-11-02T01:00", "2026-11-02T06:00"),
        ("16:30", "2026-11-02T01:00", "2026-11-02T16:30"),
        ("'6:00'", "2026-11-02T06:00", "2026-11-03T06:00"),
    ],
)
def test_a_night_is_over_at_the_next_such_time(until: str, start: str, end: str) -> None:
    lab = read(f"recipes: [a.yaml]\nuntil: {until}")
    assert lab.deadline(datetime.fromisoformat(start)) == datetime.fromisoformat(end)


def test_raw_values_are_kept_for_days() -> None:
    assert read("recipes: [a.yaml]\nkeep: {raw: 30d}").keep_raw == timedelta(days=30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "lab.yaml:1: a lab is a map of name, recipes, devices, inventory, cluster, until, notify, keep, pages"),
        ("recipe: a.yaml", "lab.yaml:1: unknown key 'recipe'; did you mean 'recipes'?"),
        ("name: x", "lab.yaml:1: recipes is missing; give a list of recipe files"),
        ("recipes: a.yaml", "lab.yaml:1: recipes is 'a.yaml'; give a list of recipe files"),
        ("recipes: [b.yaml]", "lab.yaml:1: no such recipe 'b.yaml'; give it relative to the lab file"),
        ("recipes: [a.yaml, a.yaml]", "lab.yaml:1: 'a.yaml' is there twice; put its devices together"),
        ("recipes: [{recipe: a.yaml, device: x}]", "lab.yaml:1: unknown key 'device'; did you mean 'devices'?"),
        ("recipes: [a.yaml]\nuntil: dawn", "lab.yaml:2: until is 'dawn'; give a time of day, such as '06:00'"),
        ("recipes: [a.yaml]\nkeep: 30d", "lab.yaml:2: keep is '30d'; give days of raw values: {raw: 30d}"),
        ("recipes: [a.yaml]\nnotify: [mail]", "lab.yaml:2: notify is ['mail']; give text"),
        ("recipes: [a.yaml]\ndevices: ['tag:../x']",
         "lab.yaml:2: tag name '../x' is not allowed; use letters, digits, '.', '_' and '-'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_lab(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        read(text)


def test_init_writes_a_lab_that_can_be_read_and_what_starts_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = LabShell(here, monkeypatch, capsys)
    out, _ = shell("nightly shelf.yaml --init")
    names = ["shelf.yaml", "qpipe-shelf.service", "qpipe-shelf.timer", "shelf-ci.yaml"]
    assert out.splitlines() == [f"wrote {name}" for name in names]
    lab = read_lab(Path("shelf.yaml"))
    assert [recipe.name for recipe in lab.recipes] == ["recipe.yaml"]
    assert list(lab.recipes[0].devices) == ["one", "two", "arm"]
    assert "nightly shelf.yaml" in Path("qpipe-shelf.service").read_text(encoding="utf-8")
    ci = yaml.safe_load(Path("shelf-ci.yaml").read_text(encoding="utf-8"))
    assert ci["jobs"]["nightly"]["steps"][0]["run"].endswith("nightly shelf.yaml")
    assert "shelf.yaml: it is there already; " in shell("nightly shelf.yaml --init", 2)[1]
