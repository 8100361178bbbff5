"""A float network that does not compute what its file does is an error before anything is quantized, never a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from scratch_lab import LabShell

from qpipe.engine.exactness import check_exact
from qpipe.errors import StageError
from qpipe.quant.given_network import interface_change, interface_of
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '
KEEPING = """
from qpipe.quant.given_network import keep_given

GIVEN = NETWORK.replace("2.0", "{second}")


def kept() -> ir.Model:
    \"\"\"A network, and another one as the file that it was read from.\"\"\"
    model = ir.from_onnx_text(NETWORK)
    keep_given(model, ir.to_proto(ir.from_onnx_text(GIVEN)).SerializeToString())
    return model

"""


def samples(folder: Path, *arrays: np.ndarray) -> Samples:
    entries = (Sample(f"e{i}", {"x": array}) for i, array in enumerate(arrays))
    return Samples.write(folder, entries, {"x": Preprocessing()})


def check(folder: Path, imported: str, given: str, array: np.ndarray) -> None:
    path = folder / "given.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + given), path)
    check_exact(ir.from_onnx_text(HEADER + imported), path, [samples(folder / "s", array)])


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def use_kept(qpipe: LabShell, second: str, models: str = "{tiny: kept}") -> None:
    keeping = KEEPING.replace("{second}", second)
    qpipe.lab.edit("stages.py", "def flip(", f"{keeping}\ndef flip(")
    qpipe.lab.edit(
        "stages.py",
        'register("import", tiny)',
        'register("import", tiny); register("import", kept)',
    )
    qpipe.lab.edit("recipe.yaml", "{tiny: tiny}", models)


NUMBERS = np.array([1, -2, 3, 4], np.float32)
ADD = "g (float[1, 4] x) => (float[1, 4] y) { y = Add (x, x) }"


@pytest.mark.parametrize(
    ("imported", "reason"),
    [
        (
            "g (float[1, 4] x) => (float[1, 4] y) <float f = {2.001}> { y = Mul (x, f) }",
            "the imported network is not that of the file on sample 'e0': output 'y': "
            "it differs by 0.0005 of its largest value",
        ),
        (
            "g (float[1, 4] x) => (float[1, 4] z) { z = Add (x, x) }",
            "the file has the outputs y, the imported network has z",
        ),
        (
            "g (float[1, 4] x) => (float[4, 1] y) { t = Add (x, x) y = Transpose (t) }",
            "it is float32 [4, 1], should be float32 [1, 4]",
        ),
        (
            "g (float[1, 4] x) => (double[1, 4] y) { t = Add (x, x) y = Cast <to = 11> (t) }",
            "it is float64 [1, 4], should be float32 [1, 4]",
        ),
        (
            "g (float[1, 4] x) => (float[1, 4] y) { t = Add (x, x) y = Sqrt (t) }",
            "NaN or infinity differ",
        ),
    ],
)
def test_each_difference_is_named(tmp_path: Path, imported: str, reason: str) -> None:
    with pytest.raises(StageError) as raised:
        check(tmp_path, imported, ADD, NUMBERS)
    assert reason in str(raised.value)
    assert raised.value.failure == "wrong answer"


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    factors = "<float f = {2.00001}> { y = Mul (x, f) }"
    check(tmp_path, f"g (float[1, 4] x) => (float[1, 4] y) {factors}", ADD, NUMBERS)


def test_a_file_of_float16_rounds_more_coarsely(tmp_path: Path) -> None:
    def halves(factor: float) -> str:
        return f"g (float[1, 4] x) => (float[1, 4] y) <float f = {{{factor}}}> {{ y = Mul (x, f) }}"

    recorded = HEADER.replace(">", ', metadata_props: ["qpipe.given_floats": "float16"]>')
    path = tmp_path / "given.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + halves(2.0)), path)
    fed = [samples(tmp_path / "s", NUMBERS)]
    check_exact(ir.from_onnx_text(recorded + halves(2.01)), path, fed)
    with pytest.raises(StageError, match=r"it differs by 0\.05 of its largest value"):
        check_exact(ir.from_onnx_text(recorded + halves(2.1)), path, fed)
    with pytest.raises(StageError, match=r"it differs by 0\.005 of its largest value"):
        check_exact(ir.from_onnx_text(HEADER + halves(2.01)), path, fed)


def test_a_network_that_draws_random_numbers_is_held_against_nothing_tighter_than_itself(
    tmp_path: Path,
) -> None:
    random = "g (float[1, 4] x) => (float[1, 4] y) { t = RandomNormalLike (x) y = Add (x, t) }"
    check(tmp_path, random, random, NUMBERS)


def test_a_file_that_does_not_run_cannot_be_proved(tmp_path: Path) -> None:
    given = ADD.replace("Add (x, x)", "Missing (x)")
    with pytest.raises(StageError, match="the file as it was given does not run"):
        check(tmp_path, ADD, given, NUMBERS)


@pytest.mark.parametrize(
    ("after", "change"),
    [
        ("(float[1] a, float[1] b) => (float[1] y, float[1] z)", None),
        ("(float[1] b, float[1] a) => (float[1] y, float[1] z)", "inputs were a, b, now are b, a"),
        ("(float[1] a, float[1] b) => (float[1] z, float[1] y)", "outputs were y, z, now are z, y"),
        ("(float[1] a, float[1] b) => (float[1] y)", "outputs were y, z, now are y"),
        ("(int64[1] a, float[1] b) => (float[1] y, float[1] z)", "input 'a' float is now int64"),
    ],
)
def test_a_changed_interface_is_named(after: str, change: str | None) -> None:
    body = "{ y = Add (a, b) z = Sub (a, b) }"
    before = ir.from_onnx_text(
        f"{HEADER} g (float[1] a, float[1] b) => (float[1] y, float[1] z) {body}"
    )
    changed = ir.from_onnx_text(f"{HEADER} g {after} {body}")
    assert interface_change(interface_of(before), interface_of(changed)) == change


# ---- in a run


def test_an_exact_network_runs_and_is_checked_once(qpipe: LabShell) -> None:
    use_kept(qpipe, "2.0")
    qpipe("run recipe.yaml")
    assert set(qpipe.states().values()) == {"done"}
    entries = list((qpipe.lab.folder / ".qpipe/cache/exactness").iterdir())
    out, _ = qpipe("plan recipe.yaml")
    assert "tiny on integers: " in out
    assert list((qpipe.lab.folder / ".qpipe/cache/exactness").iterdir()) == entries


def test_a_network_that_is_not_its_file_stops_plan_and_run_with_one_line(qpipe: LabShell) -> None:
    use_kept(qpipe, "2.5")
    for command in ("plan", "run", "run"):
        _, err = qpipe(f"{command} recipe.yaml", 2)
        assert "recipe.yaml:6: the imported network is not that of the file on sample 'c0'" in err
    assert qpipe.states()["tiny/import"] == "failed"
    assert {step for step, state in qpipe.states().items() if state == "done"} <= {"samples"}


def test_one_of_two_networks_that_is_not_its_file_is_no_row(qpipe: LabShell) -> None:
    use_kept(qpipe, "2.5", "{tiny: kept, other: tiny}")
    qpipe("run recipe.yaml", 1)
    states = qpipe.states()
    assert states["other/snapped/packed@one/weight"] == "done"
    assert states.pop("tiny/import") == "failed"
    assert {state for step, state in states.items() if step.startswith("tiny/")} == {"skipped"}


def test_a_scheme_that_changes_the_interface_fails_alone(qpipe: LabShell) -> None:
    body = """    model.graph.outputs.clear()
    model.graph.outputs.append(model.graph.inputs[0])
    return model

"""
    qpipe.lab.edit("stages.py", '    model.metadata_props["flip"] = "1"\n    return model\n', body)
    qpipe.lab.edit("recipe.yaml", "schemes:\n", "schemes:\n  flipped: [flip, {snap: {bits: 4}}]\n")
    _, err = qpipe("run recipe.yaml", 1)
    assert "transform flip changed the network: its outputs were y, now are x" in err
    assert qpipe.states()["tiny/snapped/packed@one/weight"] == "done"


# in the process of a step alone
CRASHING = """
import multiprocessing
import os
import qpipe.engine.exactness

if multiprocessing.parent_process() is not None:
    qpipe.engine.exactness.open_file = lambda *words, **options: os.abort()
"""


def test_a_runtime_that_crashes_on_a_file_ends_in_one_line(qpipe: LabShell) -> None:
    use_kept(qpipe, "2.0")
    qpipe.lab.edit("stages.py", "def flip(", f"{CRASHING}\ndef flip(")
    _, err = qpipe("run recipe.yaml", status=2)
    assert "its process was ended by SIGABRT" in err
    assert "Traceback" not in err
