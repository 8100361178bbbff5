"""`devices setup`: a board that has nothing but Python computes what this machine computes, or is told why not."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bare_board import bring, set_up, write_wheel

import qpipe
from qpipe_devices import local, ssh
from qpipe_devices.setup import proof_network
from qpipe_devices.setup.wheels import download_wheels, platform_tags
from small_build import nothing

ARMV7 = {
    "python": "3.11.2",
    "abi": "cp311",
    "arch": "armv7l",
    "libc": "glibc",
    "libc_version": "2.36",
}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[qpipe.Device]:
    """A board whose Python has all."""
    device = local("board", folder=tmp_path / "board")
    yield device
    device.close()


@pytest.fixture
def bare(bare_python: Path, tmp_path: Path) -> Iterator[qpipe.Device]:
    """A board that nothing was sent to."""
    device = local("board", python=str(bare_python), folder=tmp_path / "board")
    yield device
    device.close()


@pytest.fixture
def tiny_wheels(tmp_path: Path) -> Path:
    """Wheels of the right names with a file each that nobody imports."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("onnxruntime", "numpy"):
        write_wheel(folder, name, {f"{name}_of_the_test.py": b"x = 1\n" * 1000})
    return folder


def test_a_bare_board_reached_by_ssh_gets_ready_and_runs_a_build(
    sshd, bare_python, wheels, build, samples, tmp_path
):
    device = ssh("board", **{**sshd.options(tmp_path / "board"), "python": str(bare_python)})
    try:
        found = set_up(device, wheels=wheels)
        assert found["sent"].facts["bytes"] == sum(
            wheel.stat().st_size for wheel in wheels.glob("*.whl")
        )
        assert found["proof"].said == "a tiny int8 network: all 1024 outputs equal the host's"
        assert device.capabilities().runtimes["onnxruntime"] == onnxruntime.__version__
        stored = device.store(build.folder, nothing), device.store(samples.folder, nothing)
        assert len(list(device.infer(*stored, 2))) == 2
        again = set_up(device)
    finally:
        device.close()
    assert again["runtime"].facts["bytes"] == 0
    assert "sent" not in again
    assert_whole(tmp_path / "board/python")


def assert_whole(python: Path) -> None:
    """Every file that the wheels record is there."""
    (runtime,) = [path for path in python.iterdir() if path.is_dir()]
    records = list(runtime.glob("*.dist-info/RECORD"))
    assert len(records) >= 2
    for record in records:
        with record.open(encoding="utf-8", newline="") as file:
            names = [row[0] for row in csv.reader(file)]
        placed = [name for name in names if not name.split("/")[0].endswith(".data")]
        assert not [name for name in placed if not (runtime / name).is_file()]


def test_the_same_wheels_again_are_not_sent_again(board, tiny_wheels):
    size = sum(wheel.stat().st_size for wheel in tiny_wheels.iterdir())
    assert bring(board, tiny_wheels)["sent"].facts["bytes"] == size
    assert bring(board, tiny_wheels)["sent"].facts["bytes"] == 0


def test_a_runtime_damaged_on_the_board_is_sent_again(board, tiny_wheels):
    bring(board, tiny_wheels)
    (module,) = Path(board.folder).glob("python/*/numpy_of_the_test.py")
    whole = module.read_bytes()
    module.write_bytes(whole[:-1])
    assert bring(board, tiny_wheels)["sent"].facts["bytes"] > 0
    assert module.read_bytes() == whole


def test_a_wheel_damaged_on_its_way_is_sent_again(board, tiny_wheels, monkeypatch):
    put, paths = board.transport.put, []

    def damaging(source: Path, path: str, progress: qpipe.Progress) -> None:
        put(source, path, progress)
        paths.append(path)
        if paths == [path]:
            Path(path).write_bytes(b"x")

    monkeypatch.setattr(board.transport, "put", damaging)
    assert "installed" in bring(board, tiny_wheels)
    sent = [path for path in paths if "/python/incoming/" in path]
    assert sorted(map(sent.count, set(sent))) == [1, 2]
    assert list(Path(board.folder).glob("python/*/numpy_of_the_test.py"))


def test_what_this_machine_has_needs_nothing(board):
    found = set_up(board)
    assert found["runtime"].said.endswith("of the system; nothing is sent")
    assert found["proof"].facts["differ"] == 0


def test_a_board_that_a_run_is_using_is_left_alone(board, tmp_path):
    holder = local("board", folder=tmp_path / "board")
    holder.capabilities()
    with pytest.raises(qpipe.BusyError, match=r"^board: busy: held by "):
        set_up(board)
    holder.close()


def test_a_bare_board_that_somebody_uses_or_holds_is_left_alone(bare, tiny_wheels, tmp_path):
    """Where no agent of its own could say so: it has no numpy to start with."""
    bare.lock = str(tmp_path / "shared")
    other = local("other", folder=tmp_path / "other", lock=bare.lock)
    other.capabilities()
    for end in (r" \(pid \d+\)", r" until 20\S+ \S+ [+-]\d{4} \(mine\)"):
        with pytest.raises(
            qpipe.BusyError,
            match=rf"^board: busy: held by \S+@\S+ since 20\S+ \S+ [+-]\d{{4}}{end}$",
        ):
            bring(bare, tiny_wheels)
        other.hold(3600, "mine")
        other.close()
    assert not list(Path(bare.folder).glob("python/*"))


def test_the_systems_runtime_is_used_only_where_there_is_one(bare):
    pointer = select_runtime(Path(bare.folder))
    with pytest.raises(qpipe.DeviceError) as error:
        set_up(bare, system_runtime=True)
    assert str(error.value) == (
        "board: numpy cannot be imported there: ModuleNotFoundError: No module named 'numpy'; "
        f"install it there: {bare.python} -m pip install numpy"
    )
    assert pointer.exists()


def test_going_back_to_the_systems_runtime(board):
    pointer = select_runtime(Path(board.folder))
    assert set_up(board, system_runtime=True)["runtime"].said.endswith(
        "of the system; nothing is sent"
    )
    assert not pointer.exists()


def select_runtime(board: Path) -> Path:
    """Say that setup brought a runtime; what says so."""
    (board / "python/brought").mkdir(parents=True)
    pointer = board / "python/current"
    pointer.write_text("brought", encoding="utf-8")
    return pointer


def test_no_room_is_said_before_anything_is_sent(bare_python, tiny_wheels, tmp_path):
    device = local("board", python=str(bare_python), folder=tmp_path / "board", min_free_mb=1e9)
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: no room for the runtime \(\d+ MB, 0 MB free in "
    ) as error:
        set_up(device, wheels=tiny_wheels)
    assert error.value.failure == "no room"
    assert not list((tmp_path / "board/python/incoming").iterdir())


def test_a_board_that_no_wheel_fits_is_told_what_else_there_is(tmp_path):
    empty = tmp_path / "none"
    empty.mkdir()
    asked = {**ARMV7, "abi": "cp399", "python": "3.99.0"}
    with pytest.raises(qpipe.DeviceError) as error:
        download_wheels("pi", asked, "onnxruntime", target=tmp_path / "fetched", wheel_folder=empty)
    text = str(error.value)
    assert text.startswith(
        f"pi: {empty} has no wheels of onnxruntime for Python 3.99.0 on armv7l, glibc 2.36 (pip: "
    )
    fix = (
        "give wheels of your own by --wheels DIR, or install it there and pass --use-system-runtime"
    )
    assert text.endswith(f"; {fix}")
    assert error.value.failure == "configuration"


@pytest.mark.parametrize("wanted", ["--index-url=x", "torch", "onnxruntime @ http://x", ""])
def test_what_is_no_onnxruntime_is_refused(bare, wanted):
    with pytest.raises(
        qpipe.DeviceError,
        match="is not a runtime that setup can install; give onnxruntime or a variant of it",
    ):
        set_up(bare, runtime=wanted or " ")


def test_wheels_are_asked_for_by_the_tags_of_the_boards_libc():
    def tags(arch: str, libc: str, version: str) -> list[str]:
        return platform_tags(arch, libc=libc, version=version)

    assert tags("aarch64", "glibc", "2.19") == [
        "manylinux_2_19_aarch64", "manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64",
        "linux_aarch64",
    ]  # fmt: skip
    assert tags("x86_64", "glibc", "2.6") == [
        "manylinux_2_6_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64",
    ]  # fmt: skip
    assert tags("aarch64", "musl", "1.1") == [
        "musllinux_1_1_aarch64",
        "musllinux_1_0_aarch64",
        "linux_aarch64",
    ]
    assert tags("riscv64", "", "") == ["linux_riscv64"]


@pytest.mark.slow
def test_pip_fetches_what_another_architecture_needs(tmp_path):
    board = {**ARMV7, "arch": "aarch64"}
    found = download_wheels("pi", board, "onnxruntime>=1.20", target=tmp_path, wheel_folder=None)
    names = [wheel.path.name for wheel in found]
    compiled = [name for name in names if not name.endswith("-any.whl")]
    assert {name.split("-")[0] for name in names} >= {"numpy", "onnxruntime"}
    assert all("aarch64" in name for name in compiled)
    assert all("-cp311-" in name for name in names if name.startswith(("numpy", "onnxruntime")))


@pytest.mark.parametrize(
    ("steps", "said"), [(0, "all 8 outputs equal"), (1, "1 of 8 outputs differ")]
)
def test_outputs_may_differ_by_one_quantization_step(steps, said):
    there = np.zeros(8)
    there[3] = steps * proof_network.OUTPUT_SCALE
    assert said in proof_network.compare_outputs("board", on_device=there, on_host=np.zeros(8)).said


def test_outputs_that_differ_by_more_are_a_wrong_answer():
    there = np.zeros(8)
    there[3] = 2 * proof_network.OUTPUT_SCALE
    with pytest.raises(
        qpipe.DeviceError, match="by up to 2 quantization steps; do not measure on it"
    ) as error:
        proof_network.compare_outputs("board", on_device=there, on_host=np.zeros(8))
    assert error.value.failure == "wrong answer"


def test_outputs_that_are_no_numbers_are_a_wrong_answer():
    with pytest.raises(qpipe.DeviceError, match="by up to nan quantization steps"):
        proof_network.compare_outputs("board", on_device=np.full(8, np.nan), on_host=np.zeros(8))


def test_a_wheel_cannot_write_outside_of_its_folder(board, tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("onnxruntime", "numpy"):
        write_wheel(folder, name, {"../../../escaped.py": b"x"} if name == "numpy" else {})
    with pytest.raises(
        qpipe.DeviceError, match=r"^board: a wheel has a file that leaves its folder: \.\./"
    ):
        set_up(board, wheels=folder)
    assert not list(tmp_path.rglob("escaped.py"))
