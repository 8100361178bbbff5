"""The null device, the registered drivers, and what the agent's files promise."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import qpipe
import qpipe_devices
from qpipe.samples.preprocess import feeds
from qpipe_devices import agent_package, null
from qpipe_devices.agent import machine, timing, wire
from small_build import nothing

AGENT = sorted(Path(wire.__file__).parent.glob("*.py"))


def test_null_gives_zeros_in_the_shapes_of_the_build(build, samples):
    device = null("nothing", latency_ms=2.5)
    places = device.store(build.folder, nothing), device.store(samples.folder, nothing)
    outputs = list(device.infer(*places, 3))
    assert len(outputs) == 3
    assert {name: (array.shape, array.dtype) for name, array in outputs[0].items()} == {
        "flat": ((1, 192), np.float32), "mean": ((1, 3, 1, 1), np.float32),
    }  # fmt: skip
    assert not outputs[0]["flat"].any()
    assert list(device.round(*places, warmup_s=1, values=3, budget_s=1).values_ms) == [2.5] * 3
    assert device.store(build.folder, nothing).sent == 0
    assert device.capabilities() == null("other").capabilities()
    assert device.placement(places[0]) is None
    assert isinstance(device, qpipe.Device)


def test_every_driver_takes_a_name_and_options():
    drivers = {}
    qpipe_devices.register_devices(
        lambda function, **_: drivers.update({function.__name__: function})
    )
    assert sorted(drivers) == ["local", "null", "ssh"]
    for driver in drivers.values():
        first, *others = inspect.signature(driver).parameters.values()
        assert first.name == "name"
        assert all(option.kind is option.KEYWORD_ONLY for option in others)
        assert driver.__doc__


@pytest.mark.parametrize("path", [*AGENT, Path(inspect.getfile(feeds))], ids=lambda path: path.name)
def test_what_travels_is_python_3_8(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


def is_for_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("path", AGENT, ids=lambda path: path.name)
def test_what_travels_needs_numpy_and_nothing_else(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # imports for the type checker are never run on the board
    tree.body = [node for node in tree.body if not is_for_type_checking(node)]
    absolute = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    ]
    plain = [
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    ]
    roots = {str(name).partition(".")[0] for name in absolute + plain}
    own = {"onnxruntime"} if path.name == "run_onnxruntime.py" else set()
    assert roots - set(sys.stdlib_module_names) <= {"numpy"} | own


def test_the_agent_is_the_same_bytes_every_time():
    assert agent_package.package() == agent_package.package.__wrapped__()


@pytest.mark.parametrize(
    "array",
    [
        np.float32(3.5).reshape(()),
        np.zeros((0, 4), np.int64),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([True, False]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_travel_unchanged(array, tmp_path):
    with (tmp_path / "pipe").open("wb") as stream:
        wire.write_message(stream, {"do": "run"}, {"x": array, "y": array})
    with (tmp_path / "pipe").open("rb") as stream:
        message = wire.read_message(stream)
        assert wire.read_message(stream) is None
    assert message.fields == {"do": "run"}
    for name in ("x", "y"):
        assert message.arrays[name].shape == array.shape
        np.testing.assert_array_equal(message.arrays[name], array)


def test_a_message_cut_short_is_the_end(tmp_path):
    pipe = tmp_path / "pipe"
    with pipe.open("wb") as stream:
        wire.write_message(stream, {}, {"x": np.arange(100)})
    pipe.write_bytes(pipe.read_bytes()[:-1])
    with pipe.open("rb") as stream:
        assert wire.read_message(stream) is None


@pytest.mark.parametrize(
    ("times", "shortest", "longest"),
    [
        (itertools.repeat(5), 0.06, 0.09),  # steady from the start: as long as was asked for
        ((5 * 1.2**i for i in itertools.count()), 0.24, 0.27),  # never steady: four times as long
    ],
    ids=["steady", "restless"],
)
def test_warmup_goes_on_until_steady_and_not_for_ever(times, shortest, longest, monkeypatch):
    clock = [0.0]

    def once() -> float:
        clock[0] += 0.002
        return next(times)

    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    warmup = timing.warm_up(once, seconds=0.06, most_s=10)
    assert shortest <= clock[0] < longest
    assert warmup.inferences == round(clock[0] / 0.002)
    assert warmup.steady is (longest < 0.1)


@pytest.mark.parametrize(
    ("each_s", "seconds", "most", "inferences", "steady"),
    [
        (0.1, 0.3, 2.5, 6, True),
        (0.5, 0.3, 2.5, 3, None),  # PATIENCE is over before a second window is whole
        (0.9, 3.0, 2.5, 3, None),  # half the budget is
        (2.0, 0.3, 2.5, 1, None),
        (0.01, 0.0, 2.5, 1, None),  # none was asked for
        (0.4, 2.0, 10.0, 6, True),  # what asking for more gives
    ],
)
def test_no_inference_of_a_warmup_begins_after_its_time(
    each_s, seconds, most, inferences, steady, monkeypatch
):
    clock = [0.0]

    def once() -> int:
        clock[0] += each_s
        return int(each_s * 1e9)

    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert timing.warm_up(once, seconds=seconds, most_s=most) == (inferences, steady)
    assert clock[0] < max(min(4 * seconds, most), 0.001) + each_s


@pytest.mark.parametrize(
    ("cpuinfo", "name", "features"),
    [
        (
            "model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni rdpid\n",
            "AMD EPYC",
            ["avx2", "avx512_vnni"],
        ),
        (
            "processor : 0\nFeatures : fp asimd crc32 cpuid asimddp\nCPU part : 0xd05\n\n"
            "processor : 1\nFeatures : fp asimd crc32 cpuid asimddp\nCPU part : 0xd0b\n\nHardware : RK3588\n",
            "RK3588, Cortex-A55 + Cortex-A76",
            ["asimd", "asimddp"],
        ),
    ],
)
def test_cpus_are_named_and_their_features_found(cpuinfo, name, features, monkeypatch):
    read = Path.read_text

    def fake(path: Path, *args: object, **options: object) -> str:
        if str(path) == "/proc/device-tree/model":
            raise FileNotFoundError
        return cpuinfo if str(path) == "/proc/cpuinfo" else read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", fake)
    assert machine._linux_cpu() == (name, features)
