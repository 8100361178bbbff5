"""Boards with little: no long command reaches them, and dropbear, busybox and Python 3.8 suffice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from bare_board import by_what, set_up, write_wheel

import qpipe
from qpipe_devices import ssh
from qpipe_devices.setup.bare_calls import NoPythonError, probe
from small_build import nothing

NEEDS = 10  # wheels that a runtime needs besides numpy
LONGEST = 1000  # bytes of a command; dropbear ends a connection above 9000


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The lengths of all commands that were sent."""
    lengths = []
    send = paramiko.Channel.exec_command

    def record(channel: paramiko.Channel, command: str) -> None:
        lengths.append(len(command.encode()))
        send(channel, command)

    monkeypatch.setattr(paramiko.Channel, "exec_command", record)
    yield lengths
    assert 0 < max(lengths) < LONGEST


@pytest.fixture
def tiny_wheels(tmp_path: Path) -> Path:
    """Wheels of a runtime and of what it needs, with files that nobody imports."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    needs = [f"need{number}" for number in range(NEEDS)]
    for name in ("numpy", *needs):
        write_wheel(folder, name, {f"{name}_of_the_test.py": b"x = 1\n"})
    write_wheel(folder, "onnxruntime", {"onnxruntime_of_the_test.py": b""}, needs)
    return folder


def use(device: qpipe.Device, build: qpipe.Build, samples: qpipe.Samples) -> None:
    """Send, infer, measure and clean."""
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    assert len(list(device.infer(*places, 3))) == 3
    assert device.round(*places, warmup_s=0.01, values=2, budget_s=5).values_ms
    assert device.clean() > 0


@pytest.mark.parametrize("kind", ["sshd", "small_board"])
def test_commands_are_short_in_check_setup_and_a_run(
    kind, request, longest, tiny_wheels, build, samples, tmp_path
):
    server = request.getfixturevalue(kind)
    if kind == "sshd":
        options = server.options(tmp_path / "board")
    else:
        options = server.options(sys.executable, tmp_path / "board")
    device = ssh("board", **options)
    found = by_what(device.check())
    assert {finding.state for finding in found.values()} <= {"ok", "warning"}
    set_up(device, wheels=tiny_wheels, runtime="onnxruntime")
    assert len(list((tmp_path / "board/python").glob("*/need*_of_the_test.py"))) == NEEDS
    use(device, build, samples)
    process = device.transport.start(["sleep", "60"])
    process.kill()
    device.close()


@pytest.mark.slow
def test_dropbear_with_busybox_and_python_38_is_set_up_and_runs(
    small_board, python38, build, samples, tmp_path
):
    device = ssh("board", **small_board.options(python38, tmp_path / "board"))
    try:
        found = by_what(device.check())
        assert found["python"].said.startswith("Python 3.8.")
        assert found["numpy"].state == "bad"
        try:
            found = set_up(device)
        except qpipe.DeviceError as error:
            pytest.skip(f"pip fetches no wheels here: {error}")
        assert found["proof"].said.startswith("a tiny int8 network: ")
        use(device, build, samples)
    finally:
        device.close()


@pytest.mark.parametrize("version", [2, 3])
def test_a_python_that_is_too_old_says_so(version, tmp_path):
    names = {2: "2.7.*/bin/python2.7", 3: "3.6.*/bin/python3.6"}
    old = next(Path.home().glob(f".pyenv/versions/{names[version]}"), None)
    if old is None:
        pytest.skip(f"there is no old Python {version}")
    from qpipe_devices import local

    device = local("board", python=str(old), folder=tmp_path / "board")
    expected = rf"board: '{old}' does not .*python {version}\.\d is too old; it must be 3\.8 or"
    with pytest.raises(NoPythonError, match=expected):
        probe(device, ["numpy"])
    with pytest.raises(qpipe.DeviceError, match=expected) as error:
        device.capabilities()
    assert error.value.failure == "configuration"
    assert not list(tmp_path.iterdir())
