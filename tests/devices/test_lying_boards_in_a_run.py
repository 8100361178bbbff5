"""Boards that lie beside a good one in a run: its results are whole and right, and each lie is one line of the right type."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_lab import EXACT, Site
from lying_board import write_liar

from qpipe.digests import digest_text

HUGE = 10**30
DEEP = "[" * 100_000
MEMORY_MB = 500
LONGEST_MESSAGE = 1000
WRONG = "wrong answer"

# lie -> what it changes, and the type of the failure
CAPABILITIES: dict[str, tuple[dict[str, Any], str]] = {
    "arch is a number": ({"field": "arch", "value": 7}, WRONG),
    "arch is missing": ({"field": "arch"}, WRONG),
    "cores are words": ({"field": "cores", "value": "many"}, WRONG),
    "cores are huge": ({"field": "cores", "value": HUGE}, WRONG),
    "features are a text": ({"field": "features", "value": "avx2"}, WRONG),
    "memory is endless": ({"field": "memory_mb", "value": float("inf")}, WRONG),
    "runtimes are a list": ({"field": "runtimes", "value": ["onnxruntime"]}, WRONG),
    "fingerprint is nothing": ({"field": "fingerprint", "value": None}, WRONG),
    "emulated is a guess": ({"field": "emulated", "value": "maybe"}, WRONG),
    "boot is a list": ({"field": "boot_id", "value": []}, WRONG),
    "no message": ({"when": "arch", "raw": "hello\n"}, WRONG),
    "deep": ({"when": "arch", "raw": DEEP + "\n"}, WRONG),
    "a crowd of lists": ({"when": "arch", "raw": "[" + "[]," * 4_000_000 + "[]]\n"}, WRONG),
    "endless line": ({"when": "arch", "raw": "x", "then": "x"}, WRONG),
    "no id": ({"when": "arch", "raw": '{"id": null}\n'}, WRONG),
    "an error of another kind": (
        {"when": "arch", "raw": '{"id": ID, "error": "\\u001b[2J\\nno", "failure": 7}\n'},
        "bug",
    ),
}
STORING: dict[str, tuple[dict[str, Any], str]] = {
    "missing is a text": ({"field": "missing", "value": "abc"}, WRONG),
    "missing what was not named": ({"field": "missing", "value": ["0" * 64]}, WRONG),
    "missing is missing": ({"field": "missing"}, WRONG),
    "free is a text": ({"field": "free", "value": "much"}, WRONG),
    "free is huge": ({"field": "free", "value": HUGE}, WRONG),
    "path is nothing": ({"field": "path", "value": None}, WRONG),
    "taken is a word": ({"field": "taken", "value": "perhaps"}, WRONG),
}
INFERRING: dict[str, tuple[dict[str, Any], str]] = {
    "no outputs": ({"array": [None, None, None]}, WRONG),
    "outputs of another name": ({"array": ["z", "<f4", [1, 4]]}, WRONG),
    "outputs of text": ({"array": ["y", "<U4", [1, 4]]}, WRONG),
    "outputs of another shape": ({"array": ["y", "<f4", [3, 3, 3]]}, WRONG),
    "outputs of times": ({"array": ["y", "<M8[s]", [1, 4]]}, WRONG),
    "an array of 20 GB": (
        {"when": "index", "raw": '{"id": ID, "arrays": [["y", "<f4", [5000000000], 20000000000]]}\n', "then": "0"},
        WRONG,
    ),
    "an array of objects": (
        {"when": "index", "raw": '{"id": ID, "arrays": [["y", "|O", [1], 8]]}\n01234567'}, WRONG,
    ),
    "too few answers": ({"when": "index", "raw": '{"id": ID, "last": true}\n'}, WRONG),
    "another sample": ({"field": "index", "value": 5}, WRONG),
}  # fmt: skip
TIMING: dict[str, tuple[dict[str, Any], str]] = {
    "values are a word": ({"field": "values_ns", "value": "fast"}, WRONG),
    "values are missing": ({"field": "values_ns"}, WRONG),
    "no values": ({"field": "values_ns", "value": []}, WRONG),
    "values below zero": ({"field": "values_ns", "value": [-5, -7]}, WRONG),
    "values are huge": ({"field": "values_ns", "value": [HUGE]}, WRONG),
    "load takes nothing": ({"field": "load_ms", "value": None}, WRONG),
    "warmups are words": ({"field": "warmups", "value": "few"}, WRONG),
    "memory is a map": ({"field": "peak_mb", "value": {}}, WRONG),
    "environment is a list": ({"field": "environment", "value": []}, WRONG),
    "environment is of words": ({"field": "environment", "value": {"before": 7}}, WRONG),
    "it ends": ({"when": "values_ns", "ends": True}, "died"),
    "it is silent": ({"when": "values_ns", "is_silent": True}, "timeout"),
}
LIES = {**CAPABILITIES, **STORING, **INFERRING, **TIMING}
EVERYDAY = ("cores are words", "outputs of another name", "values are a word", "endless line")


def write_boards(site: Site, lies: list[str]) -> dict[str, str]:
    """An inventory of a good board and of those that tell these lies; return the lie of each device."""
    good = {"local": {"folder": str(site.folder / "good"), "deadline_s": 20}}
    inventory: dict[str, Any] = {"good": good}
    lie_of = {}
    for number, lie in enumerate(lies):
        name = f"liar{number}"
        folder = site.folder / name
        folder.mkdir()
        change = dict(LIES[lie][0])
        # machines of their own, and of their own kind: scores of one kind are measured on any of it
        identity = {"boot_id": name, "fingerprint": digest_text(name)}
        change["identity"] = {k: v for k, v in identity.items() if k != change.get("field")}
        (folder / "lie.json").write_text(json.dumps(change), encoding="utf-8")
        options = {"python": str(write_liar(folder)), "folder": str(folder / "board")}
        inventory[name] = {"local": {**options, "deadline_s": 5}}
        lie_of[name] = lie
    (site.host / "devices.yaml").write_text(json.dumps(inventory), encoding="utf-8")
    return lie_of


# a process begins with the peak of whoever starts it, which must so be a small one
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000)
"""


def run(site: Site, devices: list[str], output: Path) -> tuple[int, float]:
    """The exit status of a run on these devices, and the most memory of its processes in MB."""
    words = [word for device in devices for word in ("--device", device)]
    command = [str(Path(sys.executable).with_name("qpipe")), "run", "recipe.yaml", "--new", *words]
    command += ["--retries", "0"]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    with output.open("wb") as file:
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *command],
            cwd=site.host, env=environment, stdout=subprocess.PIPE, stderr=file, check=True,
        )  # fmt: skip
    status, memory_mb = measured.stdout.split()
    return int(status), float(memory_mb)


def failures(site: Site) -> dict[str, tuple[str, str]]:
    """The first failure of each device in the newest run: its type and its message."""
    newest = "SELECT id FROM runs ORDER BY started DESC, id DESC LIMIT 1"
    rows = site.query(
        f"SELECT device, failure, error FROM steps WHERE run = ({newest}) AND state = 'failed'"
    )
    return {device: (failure, error) for device, failure, error in rows}


@pytest.mark.parametrize(
    "lies",
    [
        pytest.param(list(EVERYDAY), id="everyday"),
        *(
            pytest.param(
                list(LIES)[first : first + 11],
                id=str(first),
                marks=[pytest.mark.lab, pytest.mark.timeout(900)],
            )
            for first in range(0, len(LIES), 11)
        ),
    ],
)
def test_each_lie_is_one_line_and_the_good_board_has_all_its_numbers(
    lies: list[str], undisturbed: Site, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    site.build()
    lie_of = write_boards(site, lies)
    status, memory_mb = run(site, ["good", *lie_of], tmp_path / "output")
    output = (tmp_path / "output").read_text(encoding="utf-8")
    assert "Traceback" not in output, output
    assert status == 1, output
    assert memory_mb < MEMORY_MB
    right = {key: value for key, value in undisturbed.numbers().items() if key[1] in EXACT}
    rows = site.query("SELECT scheme, metric, value FROM measurements WHERE device = 'good'")
    numbers = {(scheme, metric): value for scheme, metric, value in rows}
    assert {key: numbers[key] for key in right} == right
    assert {key for key in numbers if key[1] == "latency_ms"}
    failed = failures(site)
    assert "good" not in failed
    for name, lie in lie_of.items():
        lines = [line for line in output.splitlines() if re.search(rf"\b{name}: ", line)]
        if lie in CAPABILITIES:
            message = next(line for line in lines if "checking the device" not in line)
        else:
            failure, message = failed[name]
            assert failure == LIES[lie][1], (lie, failure, message)
        assert message.isprintable(), (lie, message)
        assert len(message) < LONGEST_MESSAGE, (lie, message)
        if LIES[lie][1] == WRONG:
            assert "wrong answer" in message, (lie, message)


def test_there_are_forty_lies() -> None:
    assert len(LIES) >= 40
