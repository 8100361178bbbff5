"""A board that lies harms itself alone: one line of the right type, in time, and no memory of the host."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lying_board import LyingBoard

import qpipe
from peak_memory import peak_growth
from qpipe_devices import local
from qpipe_devices.agent import wire
from qpipe_devices.link import Link
from qpipe_devices.setup import bare_board, bare_calls

HUGE = 10**400
DEEP = "[" * 100_000
MEMORY_MB = 500

WRONG_FIELDS: dict[str, list[tuple[str, list[Any]]]] = {
    "capabilities": [
        ("arch", [7, None, ["x86_64"]]),
        ("cores", ["many", None, {}]),
        ("features", ["avx2", {"avx2": 1}, [1]]),
        ("memory_mb", ["much", []]),
        ("runtimes", [["onnxruntime"], {"onnxruntime": 1}]),
        ("fingerprint", [None, 1]),
        ("emulated", ["maybe", 1]),
        ("boot_id", [[], 5]),
    ],
    "store": [
        ("missing", ["abc", [7], None, ["0" * 64]]),
        ("free", ["much", None]),
        ("path", [None, 7, ["/"]]),
    ],
    "round": [
        ("values_ns", ["fast", [None], {"0": 1}, 5]),
        ("load_ms", ["slow", None]),
        ("warmups", ["few", [1]]),
        ("peak_mb", [None, {}]),
        ("steady", ["rather"]),
        ("environment", ["warm", [], {"before": []}, {"before": {"load": "high"}}]),
    ],
    "placement": [
        ("nodes", ["all", [1], {"cpu": 3}, {"cpu": {"int8": "most"}}]),
        ("float_nodes", [3]),
    ],
}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[LyingBoard]:
    board = LyingBoard(tmp_path)
    yield board
    board.device.close()


def use(board: LyingBoard, what: str, build: qpipe.Build, samples: qpipe.Samples) -> object:
    device = board.device
    if what == "capabilities":
        return device.capabilities()
    if what == "store":
        return device.store(build.folder, lambda *_: None)
    board_lie = board.lie.read_text(encoding="utf-8")
    board.tell()
    stored = device.store(build.folder, lambda *_: None)
    stored_samples = device.store(samples.folder, lambda *_: None)
    board.lie.write_text(board_lie, encoding="utf-8")
    if what == "placement":
        return device.placement(stored)
    if what == "infer":
        return list(device.infer(stored, stored_samples, 3))
    return device.round(stored, stored_samples, warmup_s=0.01, values=3, budget_s=5)


@pytest.mark.parametrize("what", WRONG_FIELDS)
def test_each_field_of_another_type_is_one_line_and_the_next_answer_counts_again(
    what: str, board: LyingBoard, build: qpipe.Build, samples: qpipe.Samples
) -> None:
    truth = use(board, what, build, samples)
    for field, values in WRONG_FIELDS[what]:
        for value in values:
            board.tell(field=field, value=value)
            with pytest.raises(qpipe.DeviceError) as error:
                use(board, what, build, samples)
            assert error.value.failure == "wrong answer", (field, value)
            assert str(error.value).startswith("board: a wrong answer: "), (field, value)
            assert "\n" not in str(error.value)
    board.tell()
    if what == "capabilities":
        assert use(board, what, build, samples) == truth


@pytest.mark.parametrize(
    ("what", "field"),
    [("capabilities", "cores"), ("store", "path"), ("store", "free"), ("round", "values_ns")],
)
def test_a_field_that_is_missing_is_named(
    what: str, field: str, board: LyingBoard, build: qpipe.Build, samples: qpipe.Samples
) -> None:
    board.tell(field=field)
    with pytest.raises(
        qpipe.DeviceError, match=f"^board: a wrong answer: {field} of .*: field required"
    ):
        use(board, what, build, samples)


@pytest.mark.parametrize(
    "lie",
    [
        {"raw": "x", "then": "x"},
        {"raw": DEEP + "\n"},
        {"raw": '{"id": ID, "arrays": [["y", "<f4", [5000000000], 20000000000]]}\n', "then": "0"},
        {"raw": '{"id": ID, "arrays": [["y", "<f4", [1], -1]]}\n', "then": "0"},
        {"raw": '{"id": ID, "arrays": [["y", "<f4", [-1], 400000000]]}\n', "then": "0"},
        {"raw": '{"id": ID, "arrays": [["y", "|O", [1], 8]]}\n01234567'},
        {"raw": f'{{"id": ID, "arrays": [["y", "|u1", [{HUGE}], {HUGE}]]}}\n'},
        {"raw": '{"id": null}\n'},
        {"raw": '{"id": ID, "cores": NaN, "arch": \n'},
    ],
    ids=["endless line", "deep", "array of 20 GB", "negative size", "negative length", "objects", "huge size",
         "no id", "cut JSON"],
)  # fmt: skip
def test_what_is_no_message_ends_the_conversation_and_takes_no_memory(
    lie: dict[str, str], board: LyingBoard, build: qpipe.Build, samples: qpipe.Samples
) -> None:
    board.device.capabilities()
    board.tell(**lie)
    with peak_growth() as grown_mb, pytest.raises(qpipe.DeviceError) as error:
        board.device.capabilities()
    assert grown_mb() < MEMORY_MB
    assert error.value.failure == "wrong answer"
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    board.tell()
    assert board.device.capabilities().cores >= 1, "a new conversation may be a true one"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[Link, Path]]:
    """A board without packages that prints what a file says, whatever it is to run."""
    said = tmp_path / "said"
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\ncat > /dev/null\ncat {said}\n", encoding="utf-8")
    python.chmod(0o755)
    device = local("board", python=str(python), folder=tmp_path / "board")
    assert isinstance(device, Link)
    yield device, said
    device.close()


def test_each_field_of_what_a_bare_board_has_is_checked(
    bare: tuple[Link, Path], tmp_path: Path
) -> None:
    device, said = bare
    honest = local("board", folder=tmp_path / "board")
    truth = bare_calls.probe(honest, ["numpy"])
    wrong: dict[str, Any] = {"imports": {}, "free": HUGE, "time": math.nan, "governors": 3}
    for field in truth:
        lies = [
            {key: value for key, value in truth.items() if key != field},
            {**truth, field: wrong.get(field, [7])},
        ]
        for lie in lies:
            said.write_text(f"\n{bare_board.MAGIC}{json.dumps(lie)}\n", encoding="utf-8")
            with pytest.raises(qpipe.DeviceError) as error:
                bare_calls.probe(device, ["numpy"])
            assert error.value.failure == "wrong answer", (field, lie)
            assert str(error.value).startswith("board: a wrong answer: "), (field, lie)


@pytest.mark.parametrize(
    "answer", ["[]", "7", "{", DEEP, '{"error": "\\u001b[31m\\nboo"}'],
    ids=["list", "number", "cut", "deep", "escape codes"],
)  # fmt: skip
def test_what_is_no_answer_of_a_bare_board_is_one_line(
    answer: str, bare: tuple[Link, Path]
) -> None:
    device, said = bare
    said.write_text(f"\n{bare_board.MAGIC}{answer}\n", encoding="utf-8")
    with pytest.raises(qpipe.DeviceError) as error:
        bare_calls.probe(device, ["numpy"])
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_a_bare_board_that_prints_without_end_takes_no_memory(bare: tuple[Link, Path]) -> None:
    device, _ = bare
    script = "#!/bin/sh\nyes qpipe >&2 &\nexec cat /dev/zero\n"
    Path(device.python).write_text(script, encoding="utf-8")
    refused = pytest.raises(qpipe.DeviceError, match="does not run there: qpipe; set python to")
    with peak_growth() as grown_mb, refused:
        bare_calls.probe(device, ["numpy"])
    assert grown_mb() < MEMORY_MB


def test_numbers_that_are_none_and_crowds_of_lists_are_wrong_answers(board: LyingBoard) -> None:
    for lie in (
        {"field": "memory_mb", "value": math.inf},
        {"field": "cores", "value": HUGE},
        {"raw": '{"id": ID, "cores": [' + "[]," * 1_000_000 + "[]]}\n"},
    ):
        board.tell(**lie)
        with pytest.raises(qpipe.DeviceError) as error:
            board.device.capabilities()
        assert error.value.failure == "wrong answer"
        assert len(str(error.value)) < 1000


def test_escape_codes_and_markup_are_shown_as_text(
    board: LyingBoard, caplog: pytest.LogCaptureFixture
) -> None:
    board.tell(field="cpu", value="\x1b[2J<script>\x07 fast")
    assert board.device.capabilities().cpu == r"\x1b[2J<script>\x07 fast"
    board.tell(raw='{"id": ID, "error": "\\u001b[31mboo\\nboo", "failure": "so what"}\n')
    with pytest.raises(qpipe.DeviceError) as error:
        board.device.capabilities()
    assert str(error.value) == r"board: \x1b[31mboo boo"


def test_a_flood_on_standard_error_is_cut_and_takes_no_memory(
    board: LyingBoard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qpipe_devices.agent_connection")
    board.device.capabilities()
    board.tell(stderr_mb=20)
    with peak_growth() as grown_mb:
        assert board.device.capabilities().cores >= 1
    assert grown_mb() < MEMORY_MB
    logged = sum(len(record.getMessage()) for record in caplog.records)
    assert 1_000_000 < logged < 4_000_000
    assert "\x1b" not in caplog.text


def test_only_what_the_host_reads_has_a_bound() -> None:
    """A batch for a runner may be larger than what a sample's outputs may be."""
    stream = io.BytesIO()
    wire.write_message(stream, {"id": 1}, {"y": np.zeros(2, np.float32)})
    stream.seek(0)
    with pytest.raises(ValueError, match='"id": 1'):
        wire.read_message(stream, largest_arrays=7)
    stream.seek(0)
    message = wire.read_message(stream)
    assert message is not None
    assert message.arrays["y"].tolist() == [0, 0]
