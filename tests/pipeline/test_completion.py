"""Completion, asked as bash asks: by the script that `qpipe --show-completion` prints, in a shell of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import Lab

from qpipe.storage.results import Store
from qpipe.types import Measurement

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")
DB = Path(".qpipe/results.db")
# what readline does: the words so far, the function of the command, and its answer
ASK = """
eval "$(_QPIPE_COMPLETE=source_bash qpipe)"
for line in "$@"; do
  eval "COMP_WORDS=($line)"
  [[ $line == *" ''" ]] && COMP_WORDS[-1]=""
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
  COMPREPLY=()
  _qpipe_completion qpipe
  echo "${COMPREPLY[@]}"
done
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with a run that has a tag and a measured scheme."""
    monkeypatch.chdir(tmp_path)
    lab = scratch_lab.lab(tmp_path)
    with Store(DB) as store:
        run = store.new_run("lab", recipe_path="", recipe_digest="", recipe_text="", versions={})
        place = {"model": "tiny", "scheme": "snapped", "build": "pack", "device": "one"}
        store.record_measurements(run, place, [Measurement("latency_ms", 1.0, "ms")])
        store.tag(run, ["release-1"])
    return lab


def offers(*lines: str) -> list[list[str]]:
    """What bash is offered after each of these lines, whose last word is being typed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(BASH), "--norc", "-c", ASK, "bash", *lines],
        env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_a_shell_is_offered_what_there_is(lab: Lab) -> None:
    with Store(DB) as store:
        (run,) = store.runs()
    commands, kinds, stages, schemes, devices, runs, measured = offers(
        "qpipe de",
        "qpipe describe quan",
        "qpipe describe quantize sy",
        "qpipe run recipe.yaml --only ''",
        "qpipe devices check o",
        "qpipe report ''",
        "qpipe export --scheme s",
    )
    assert commands == ["describe", "devices"]
    assert kinds == ["quantize"]
    assert stages == ["symmetric"]
    assert "snapped" in schemes
    assert devices == ["one"]
    assert set(runs) == {run["id"], "release-1"}
    assert measured == ["snapped"]


def test_files_that_are_wrong_or_missing_offer_nothing_and_print_nothing(lab: Lab) -> None:
    lab.write("devices.yaml", "one: [")
    DB.write_text("no database")
    found = offers(
        "qpipe run recipe.yaml --device ''",
        "qpipe run none.yaml --only ''",
        "qpipe report ''",
        "qpipe export --scheme ''",
    )
    assert found == [["local"], [], [], []]


def test_names_that_a_shell_would_not_take_as_one_word_are_not_offered(lab: Lab) -> None:
    with Store(DB) as store:
        place = {"model": "tiny", "scheme": "$(touch gone)", "build": "pack", "device": "one"}
        (run,) = store.runs()
        store.record_measurements(run["id"], place, [Measurement("latency_ms", 1.0, "ms")])
    assert offers("qpipe export --scheme ''") == [["snapped"]]
    assert not Path("gone").exists()
