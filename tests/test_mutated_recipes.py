"""The shipped recipes, damaged in ten thousand ways: each is a recipe still, or one line that says what is wrong.

A thousand of them are tried every day, the others by `make test-slow`.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from qpipe.engine import cache_keys, code_digest, plan
from qpipe.errors import LONGEST_LINE, QpipeError, RecipeError
from qpipe.recipe import recipe, stage_call
from qpipe.stages import options, registry

RECIPES = Path(__file__).parents[1] / "recipes"
CASES, PARTS = 10_000, 20
EVERYDAY_PARTS = 1
LONGEST_S = 1.0
SETTINGS = {
    "image_classifier.yaml": {
        "model": "models/mobilenet_ssd.onnx",
        "calibration": "pictures",
        "evaluation": "pictures",
    }
}
ODD = (
    "null", "~", "''", '""', "-1", "0", "1", "2", "9" * 30, "-0", "0x1f", "0o17", "1_000", "1e309", "-1e309", ".nan",
    ".inf", "1e-400", "1.5", "true", "no", "2026-13-45", "2026-11-23", "12:30:45", "../x", "/", ".", "a/b",
    "~/x", '"\\0"', '"\\n"', '"\\e[31m"', '"\\ud800"', '"\\U0001f600"', "é", "日本語", "'\u202e'", "\u00a0", "x" * 5000,
    "'" + "x" * 300 + "/y'", "'" + "a/" * 3000 + "'", "${x}", "'${x}'", "'${}'", "'${env:QPIPE_NOT_SET}'", "'${env:}'",
    "'${env:PATH}'", "'${scenes}'", "'a${scenes}b'", "'${size}'", "'$${size}'", "'${${size}}'", "[]", "{}", "[[]]",
    "[null]", "{null: null}", "{'': ''}", "{a: {b: {c: d}}}", "[1, 'a', null]", "{1: 2}", "{a: 1, a: 2}",
    "[latency, latency]", "{symmetric: {bits: 8}}", "{onnx: {}}", "{onnx: {path: .}}", "symmetric", "equalize",
    "compensate", "histogram", "latency", "onnxruntime", "ssd_boxes", "local", "board", "min",
    "{value: 1, tolerance: -1}", "{value: .nan, tolerance: .inf}", "{images: {}}", "{scenes: {calibration_count: 0}}",
    "!!binary aGk=", "!!set {a}",
    "!!omap [a: 1]", "!!pairs [a: 1]", "!!timestamp x", "!!float x", "!!null x", "!!int '1_'", "!!float '1:'",
)  # fmt: skip
KEYS = (
    *recipe.KEYS,
    "samples",
    "quantise",
    "",
    "<<",
    "?",
    "1",
    "null",
    "target",
    "'../evil'",
    "'a b'",
    "[a]",
    "{a: b}",
)
DECORATIONS = (
    "&a ", "*a ", "*a", "&a *a ", "!!str ", "!!int ", "!!map ", "!!seq ", "!!null ", "!x ", "!<tag:yaml.org,2002:int> ",
    "!!python/name:os.system ", "!!python/object/apply:os.system ", "- ", "? ", ": ", "| ", "> ", "%", "@", "\r",
    "\t", "# ", "<<: ", "[", "]", "{", "}", "'", '"', ",", "${", "}", "---\n", "...\n", "\ufeff", "\x85", "\u2028",
)  # fmt: skip


@dataclass(frozen=True)
class Shipped:
    """A recipe as it is shipped, and where its scalars lie."""

    name: str
    text: str
    scalars: tuple[tuple[int, int], ...]


def shipped(path: Path) -> Shipped:
    text = path.read_text(encoding="utf-8")
    tokens = [token for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    return Shipped(path.name, text, tuple((t.start_mark.index, t.end_mark.index) for t in tokens))


SHIPPED = [shipped(path) for path in sorted(RECIPES.glob("*.yaml"))]


# ---- ways to damage a text: from the shipped text or from one that is damaged already


def scalar_replaced(text: str, chance: random.Random, own: Shipped) -> str:
    start, end = chance.choice(own.scalars)
    return text[:start] + chance.choice(ODD) + text[end:]


def scalar_decorated(text: str, chance: random.Random, own: Shipped) -> str:
    start, _ = chance.choice(own.scalars)
    return text[:start] + chance.choice(DECORATIONS) + text[start:]


def scalar_from_elsewhere(text: str, chance: random.Random, own: Shipped) -> str:
    (start, end), (other, last) = chance.choice(own.scalars), chance.choice(own.scalars)
    return text[:start] + own.text[other:last] + text[end:]


def key_inserted(text: str, chance: random.Random, own: Shipped) -> str:
    lines = text.split("\n")
    indent = " " * chance.choice((0, 0, 2, 4, 1))
    lines.insert(
        chance.randrange(len(lines) + 1), f"{indent}{chance.choice(KEYS)}: {chance.choice(ODD)}"
    )
    return "\n".join(lines)


def line_cut(text: str, chance: random.Random, own: Shipped) -> str:
    lines = text.split("\n")
    del lines[chance.randrange(len(lines))]
    return "\n".join(lines)


def line_doubled(text: str, chance: random.Random, own: Shipped) -> str:
    lines = text.split("\n")
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    return "\n".join(lines)


def lines_swapped(text: str, chance: random.Random, own: Shipped) -> str:
    lines = text.split("\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


def indentation_changed(text: str, chance: random.Random, own: Shipped) -> str:
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    lines[at] = chance.choice(("", " ", "  ", "    ", "\t")) + lines[at].lstrip(" ")
    return "\n".join(lines)


def cut_short(text: str, chance: random.Random, own: Shipped) -> str:
    return text[: chance.randrange(len(text) + 1)]


def characters_changed(text: str, chance: random.Random, own: Shipped) -> str:
    at, length = chance.randrange(len(text) + 1), chance.choice((0, 1, 1, 2, 5, 30))
    put = chance.choice(
        (*DECORATIONS, chr(chance.randrange(1, 256)), text[at : at + length] * 2, "")
    )
    return text[:at] + put + text[at + length :]


WAYS: tuple[Callable[[str, random.Random, Shipped], str], ...] = (
    *5 * [scalar_replaced], scalar_decorated, *2 * [scalar_from_elsewhere], *2 * [key_inserted], *2 * [line_cut],
    line_doubled, lines_swapped, indentation_changed, cut_short, *2 * [characters_changed],
)  # fmt: skip


def damaged(seed: int) -> tuple[Shipped, bytes]:
    """A shipped recipe and its text with one to three things wrong with it; a few lose a byte of a character, too."""
    chance = random.Random(seed)
    own = chance.choice(SHIPPED)
    text = own.text
    for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
        text = chance.choice(WAYS)(text, chance, own) or own.text
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    if chance.random() < 0.1:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return own, bytes(raw)


def remembered(
    function: Callable[[Any], Any], known_by: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    found: dict[Any, Any] = {}

    def remember(given: Any) -> Any:
        name = known_by(given)
        if name not in found:
            found[name] = function(given)
        return found[name]

    return remember


@pytest.fixture
def planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, Mapping[str, str]], plan.Plan]:
    """Loads a recipe and plans it for a device. The texts differ, the code does not: plugins, their signatures and the
    digests of their files are looked up once."""
    plugins = registry.load()
    monkeypatch.setattr(registry, "load", lambda files=(): plugins)
    for module in (recipe, stage_call, options):
        monkeypatch.setattr(
            module, "options", remembered(options.options, lambda function: function)
        )
    digests = code_digest.CodeDigests()
    for module in (cache_keys, plan):
        monkeypatch.setattr(module, "CodeDigests", lambda: digests)
    monkeypatch.setattr(cache_keys, "digest", remembered(cache_keys.digest, str))
    monkeypatch.delenv("QPIPE_NOT_SET", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copy(RECIPES / "models" / "mobilenet_ssd.onnx", tmp_path / "models")
    (tmp_path / "pictures").mkdir()
    board = plan.DeviceInPlan(
        "board", stage_call.Call(plugins.device("null"), {"arch": "x86_64", "latency_ms": 1.0})
    )

    def load(path: Path, settings: Mapping[str, str]) -> plan.Plan:
        loaded, _ = recipe.load(path, settings)
        assert loaded.digest
        return plan.make_plan(loaded, [board])

    return load


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=() if part < EVERYDAY_PARTS else pytest.mark.lab)
        for part in range(PARTS)
    ],
)
def test_a_damaged_recipe_is_a_recipe_or_one_line_of_ours_at_once(
    part: int, planned: Callable[[Path, Mapping[str, str]], plan.Plan]
) -> None:
    path = Path("r.yaml")
    good = 0
    for own in SHIPPED:  # what is looked up once is looked up before anything is timed
        path.write_text(own.text, encoding="utf-8")
        with suppress(RecipeError):  # one has no network
            planned(path, SETTINGS.get(own.name, {}))
    for seed in range(part, CASES, PARTS):
        own, raw = damaged(seed)
        path.write_bytes(raw)
        began = time.process_time()
        try:
            good += bool(planned(path, SETTINGS.get(own.name, {})).steps)
        except QpipeError as error:
            said = str(error)
            assert said.isprintable(), f"seed {seed}: {said!r}\n{raw!r}"
            assert len(said) <= LONGEST_LINE, f"seed {seed}: {said!r}\n{raw!r}"
        except Exception as error:
            raise AssertionError(f"seed {seed}:\n{raw.decode('utf-8', 'replace')}") from error
        spent = time.process_time() - began
        assert spent < LONGEST_S, f"seed {seed} took {spent:.1f} s:\n{raw!r}"
    assert CASES / PARTS / 20 < good < CASES / PARTS / 2, "damage is neither nothing nor all"
