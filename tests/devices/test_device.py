"""What every device does, over a pipe and over a real SSH connection alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import qpipe
from qpipe_devices import local, ssh
from qpipe_devices.agent import run_onnxruntime
from qpipe_devices.agent.mounts import mount_of
from small_build import nothing


def reference(build: qpipe.Build, samples: qpipe.Samples, index: int) -> dict[str, np.ndarray]:
    options = run_onnxruntime.session_options(dict(build.manifest["options"]))
    session = onnxruntime.InferenceSession(
        build.folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    pixels = samples[index].inputs["pixels"].astype(np.float32)
    image = (pixels - np.float32([120, 115, 100])) / np.float32([58, 57, 57.5])
    feeds = {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}
    return dict(zip(["flat", "mean"], session.run(["flat", "mean"], feeds), strict=True))


def test_outputs_are_those_of_onnxruntime_on_the_host_bit_for_bit(device, build, samples):
    outputs = list(
        device.infer(device.store(build.folder, nothing), device.store(samples.folder, nothing), 40)
    )
    assert len(outputs) == 40
    for index in (0, 1, 39):
        for name, expected in reference(build, samples, index).items():
            assert outputs[index][name].dtype == expected.dtype
            assert outputs[index][name].shape == expected.shape
            assert outputs[index][name].tobytes() == expected.tobytes()


def test_what_is_there_is_not_sent_again_even_by_another_connection(open_device, build, samples):
    first = open_device()
    stored = first.store(samples.folder, nothing)
    assert (
        stored.sent == stored.size == sum(path.stat().st_size for path in samples.folder.iterdir())
    )
    assert first.store(samples.folder, nothing).sent == 0
    first.close()
    again = open_device().store(samples.folder, nothing)
    assert (again.sent, again.path, again.digest) == (0, stored.path, stored.digest)


def test_a_file_cut_short_on_the_board_is_sent_again(open_device, build):
    first = open_device()
    stored = first.store(build.folder, nothing)
    first.close()
    model = Path(stored.path) / "model.onnx"  # the board is this machine
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    again = open_device().store(build.folder, nothing)
    assert again.sent == len(content)
    assert model.read_bytes() == content


def test_a_file_damaged_on_its_way_is_sent_again(device, build, monkeypatch):
    put, calls = device.transport.put, []

    def damaging(source: Path, path: str, progress: qpipe.Progress) -> None:
        calls.append(path)
        put(source, path, progress)
        if len(calls) == 1:
            Path(path).write_bytes(b"x")

    monkeypatch.setattr(device.transport, "put", damaging)
    stored = device.store(build.folder, nothing)
    assert len(calls) == 3  # two files, one of them twice
    assert (Path(stored.path) / "model.onnx").read_bytes() == (
        build.folder / "model.onnx"
    ).read_bytes()


def test_a_file_that_never_arrives_whole_is_an_error(device, build, monkeypatch):
    monkeypatch.setattr(
        device.transport, "put", lambda source, path, progress: Path(path).write_bytes(b"x")
    )
    expected = r"^board: \S+ arrived damaged 3 times; check the device's memory and card$"
    with pytest.raises(qpipe.DeviceError, match=expected):
        device.store(build.folder, nothing)


def test_progress_counts_the_bytes_that_travel(device, samples):
    seen = []
    stored = device.store(
        samples.folder, lambda done, total=None, unit="": seen.append((done, total, unit))
    )
    assert seen[-1] == (stored.size, stored.size, "B")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_no_room_says_what_where_and_how_much(open_device, build, tmp_path):
    device = open_device(min_free_mb=1e9)  # all that the disk has is kept free
    with pytest.raises(qpipe.DeviceError) as error:
        device.store(build.folder, nothing)
    assert str(error.value) == (
        f"board: no room for build.json (1 kB, 0 kB free in {tmp_path / 'board'}, mounted at {mount_of(str(tmp_path))}); "
        "free space or run: qpipe devices clean board"
    )


def test_clean_frees_what_was_stored(device, build):
    stored = device.store(build.folder, nothing)
    device.clean()
    assert not Path(stored.path).exists()
    assert device.store(build.folder, nothing).sent == stored.size


def test_a_round_gives_the_values_asked_for(device, build, samples):
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    taken = device.round(*places, warmup_s=0.05, values=7, budget_s=5)
    assert len(taken.values_ms) == 7
    assert all(0 < value < 1000 for value in taken.values_ms)
    assert taken.load_ms > 0
    assert taken.first_ms > 0
    assert taken.warmups >= 3
    assert 10 < taken.runtime_mb < taken.peak_mb < 1000


def test_a_round_ends_with_its_budget(device, build, samples):
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    taken = device.round(*places, warmup_s=0.05, values=10**9, budget_s=0.3)
    assert 0 < sum(taken.values_ms) < 300 + max(taken.values_ms)


def test_giving_up_in_the_middle_leaves_the_device_ready(device, build, samples):
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    outputs = device.infer(*places, 40)
    next(outputs)
    outputs.close()
    assert len(list(device.infer(*places, 2))) == 2


def test_the_same_machine_has_the_same_fingerprint_by_any_way(sshd, tmp_path):
    over_pipe, over_ssh = (
        local("a", folder=tmp_path / "a"),
        ssh("b", **sshd.options(tmp_path / "b")),
    )
    one, other = over_pipe.capabilities(), over_ssh.capabilities()
    over_pipe.close()
    over_ssh.close()
    assert one == other
    assert one.runtimes["onnxruntime"] == onnxruntime.__version__
    assert one.numpy == np.__version__
    assert one.cores > 0
    assert one.memory_mb > 100


def test_a_board_in_use_says_by_whom(tmp_path, sshd):
    first, second = local("first", folder=tmp_path), ssh("second", **sshd.options(tmp_path))
    first.capabilities()
    expected = r"^second: busy: held by \S+@\S+ since 20.* [+-]\d{4} \(pid \d+\)$"
    with pytest.raises(qpipe.DeviceError, match=expected):
        second.capabilities()
    first.close()
    assert second.capabilities().cores > 0
    second.close()


def test_a_python_that_is_not_there_is_named(open_device):
    device = open_device(python="/nowhere/python3")
    with pytest.raises(qpipe.DeviceError, match=r"^board: .*/nowhere/python3.*(?i:no such file)"):
        device.capabilities()


def test_a_python_without_numpy_says_so(open_device, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    device = open_device(python=str(bare / "bin" / "python"))
    expected = r"^board: .*python.* \(its last line: numpy cannot be imported: .*\); set python to one that has numpy$"
    with pytest.raises(qpipe.DeviceError, match=expected):
        device.capabilities()


def test_what_a_login_shell_prints_is_skipped(open_device, tmp_path, build):
    python = tmp_path / "python"
    script = f'#!/bin/sh\necho "Welcome!"\nprintf "no end of line"\necho "careful" >&2\nexec {sys.executable} "$@"\n'
    python.write_text(script, encoding="utf-8")
    python.chmod(0o755)
    assert open_device(python=str(python)).store(build.folder, nothing).size > 0
