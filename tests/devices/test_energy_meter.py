"""Energy of a window by hwmon, RAPL and a command, on trees as boards have them, with known power."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boards_sysfs as boards
import pytest

from qpipe_devices.agent import energy_meter, power_sensors
from qpipe_devices.agent.failures import AgentError
from waiting import LONGEST_S, wait_until

INA = f"{boards.HWMON}/hwmon0"


def ina219(root: Path) -> Path:
    """A sensor on two wires: its shunt is in0, its bus in1; 3.2 W by its own word."""
    return boards.write(root, {
        f"{INA}/name": "ina219", f"{INA}/in0_input": 10, f"{INA}/in1_input": 5000, f"{INA}/curr1_input": 640,
        f"{INA}/power1_input": 3_200_000,
    })  # fmt: skip


@contextmanager
def metered(asked: dict[str, object], root: Path) -> Iterator[energy_meter.Meter]:
    meter = energy_meter.Meter({"period_s": 0.005, **asked}, root)
    try:
        while not all(meter.samples):
            time.sleep(0.001)
        yield meter
    finally:
        meter.stop()


@contextmanager
def changing(path: Path, values: list[object]) -> Iterator[None]:
    """Writes value after value, whole each time, all the while."""
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.wait(0.003):
            _write_whole(path, f"{values[number % len(values)]}\n")
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    yield
    over.set()
    thread.join()


def _write_whole(path: Path, text: str) -> None:
    """As a sensor: whoever reads meanwhile gets all of the old value, or of the new one."""
    aside = path.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def window(seconds: float) -> tuple[int, int]:
    start = time.monotonic_ns()
    time.sleep(seconds)
    return start, time.monotonic_ns()


def test_a_monitor_that_tells_power_is_read_in_microwatts(tmp_path):
    with metered({}, ina219(tmp_path)) as meter:
        start, end = window(0.1)
        assert meter.joules(start, end) == pytest.approx(3.2 * (end - start) / 1e9)
        assert (meter.source, [rail.name for rail in meter.rails]) == ("hwmon", ["ina219"])


@pytest.mark.parametrize(
    ("rails", "watts"),
    [([], 6.0), (["VDD_SOC"], 1.2), (["VDD_CPU_GPU_CV", "VDD_SOC"], 3.2)],
    ids=["the one that feeds the others", "one", "two"],
)
def test_a_jetson_tells_voltage_and_current_of_its_rails(rails, watts, tmp_path):
    with metered({"rails": rails}, boards.jetson(tmp_path)) as meter:
        start, end = window(0.05)
        assert meter.joules(start, end) == pytest.approx(watts * (end - start) / 1e9)


def names(root: Path, source: str = "hwmon") -> list[str]:
    """Of the rails that would be added up."""
    return [rail.name for rail in power_sensors.select_rails(root, source, ())[1]]


def test_the_sum_that_an_ina3221_tells_itself_is_no_rail(tmp_path):
    root = boards.orin_agx(tmp_path)
    (root / f"{boards.HWMON}/hwmon1/curr4_input").unlink()
    (
        root / f"{boards.HWMON}/hwmon1/curr4_input"
    ).mkdir()  # it cannot be read, as where the shunts are not alike
    with metered({}, root) as meter:
        start, end = window(0.05)
        assert meter.joules(start, end) == pytest.approx((4 + 2 + 2) * (end - start) / 1e9)
        assert [rail.name for rail in meter.rails] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]


def test_sensors_of_one_name_are_told_apart_and_all_count(tmp_path):
    for number, address in ((2, "1-0040"), (5, "1-0041")):
        (tmp_path / "sys/bus/i2c" / address).mkdir(parents=True)
        boards.write(tmp_path, {
            f"{boards.HWMON}/hwmon{number}/name": "ina219", f"{boards.HWMON}/hwmon{number}/curr1_input": 640,
            f"{boards.HWMON}/hwmon{number}/power1_input": 3_200_000,
        })  # fmt: skip
    assert names(tmp_path) == ["ina219 hwmon2", "ina219 hwmon5"]
    for number, address in (
        (2, "1-0040"),
        (5, "1-0041"),
    ):  # its place on the bus, which is the same after a boot
        (tmp_path / f"{boards.HWMON}/hwmon{number}/device").symlink_to(
            tmp_path / "sys/bus/i2c" / address
        )
    assert names(tmp_path) == ["ina219 1-0040", "ina219 1-0041"]
    with metered({}, tmp_path) as meter:
        start, end = window(0.05)
        assert meter.joules(start, end) == pytest.approx(6.4 * (end - start) / 1e9)


def test_channels_without_labels_are_told_apart(tmp_path):
    rails = [("", 5000, 100), ("", 5000, 200), ("", 5000, 300)]
    boards.write(tmp_path, boards.ina3221(1, rails, 600))
    assert names(tmp_path) == ["ina3221 1", "ina3221 2", "ina3221 3"]
    boards.write(tmp_path, boards.ina3221(2, [("", 5000, 400)], 400))
    assert names(tmp_path) == [
        *(f"ina3221 hwmon1 {rail}" for rail in (1, 2, 3)),
        "ina3221 hwmon2 1",
    ]


def test_zones_of_one_name_are_told_apart_by_their_package(tmp_path):
    root = boards.server(tmp_path)
    assert names(root, "rapl") == ["package-0", "package-1"]
    expected = "energy: rapl has no rail dram; available rails are package-0, package-0/dram, package-1, package-1/dram"
    with pytest.raises(AgentError, match=expected):
        power_sensors.select_rails(root, "rapl", ["dram"])
    both = power_sensors.select_rails(root, "rapl", ["package-0/dram", "package-1/dram"])[1]
    assert [rail.read_value() for rail in both] == [0.001, 0.001]


def test_a_rail_that_is_asked_for_twice_counts_once(tmp_path):
    assert (
        len(power_sensors.select_rails(boards.jetson(tmp_path), "hwmon", ["VDD_SOC", "VDD_SOC"])[1])
        == 1
    )


def test_power_that_changes_is_summed_by_trapezoids():
    samples = [
        energy_meter.PowerSample(*sample) for sample in [(0, 1.0), (10**9, 3.0), (2 * 10**9, 3.0)]
    ]
    assert energy_meter.integrate_power(samples, 0, 2 * 10**9) == 2.0 + 3.0
    assert (
        energy_meter.integrate_power(samples, 5 * 10**8, 15 * 10**8) == (2.0 + 3.0) / 2 * 0.5 + 1.5
    )


def test_a_counter_that_begins_anew_goes_on(tmp_path):
    root = boards.laptop(tmp_path)
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    with metered({"source": "rapl"}, root) as meter:
        start, _ = window(0.03)
        before = meter.samples[0][-1][1]
        # 328850 uJ to the end of its range, and from zero on
        _write_whole(counter, "1671150")
        assert wait_until(lambda: meter.samples[0][-1][1] > before)
        _, end = window(0.03)
        assert meter.joules(start, end) == pytest.approx(2.0)
        assert [rail.name for rail in meter.rails] == ["package-0"]


def test_new_values_are_counted_by_their_differing_or_by_the_word_of_the_sensor(tmp_path):
    with metered({}, ina219(tmp_path)) as meter:
        assert meter.updates(*window(0.1)) == 0  # the same value over and over
        with changing(tmp_path / INA / "power1_input", [3_000_000, 3_400_000]):
            start = time.monotonic_ns()
            assert wait_until(lambda: meter.updates(start, time.monotonic_ns()) > 10)
    with metered({}, boards.jetson(tmp_path / "jetson")) as meter:
        start, end = window(0.2)
        assert wait_until(lambda: meter.samples[0][-1][0] > end)
        inside = sum(start <= at <= end for at, _ in meter.samples[0])
        assert meter.updates(start, end) == min(
            inside, int((end - start) / 1e9 / 0.01)
        )  # a new one every 10 ms


def test_a_command_prints_watts_or_joules(tmp_path):
    steady = "while :; do echo 'P = 2.5'; sleep 0.01; done"
    with metered({"command": steady}, tmp_path) as meter:
        start, end = window(0.05)
        assert meter.joules(start, end) == pytest.approx(2.5 * (end - start) / 1e9)
        assert wait_until(lambda: meter.updates(start, time.monotonic_ns()) > 2)  # each line is one
    counter = "j=0; while :; do j=$((j + 1)); echo $j; sleep 0.01; done"
    with metered({"command": counter, "unit": "J"}, tmp_path) as meter:
        start, end = window(0.3)
        joules = meter.joules(start, end)
        lines = sum(start <= at <= end for at, _ in meter.samples[0])
        assert joules == pytest.approx(lines, abs=2)


def test_a_command_ends_with_its_meter_and_with_whoever_started_it(tmp_path):
    with metered({"command": "while :; do echo 1; sleep 0.01; done"}, tmp_path) as meter:
        process = meter.process
        assert process
        assert process.stdin
    assert process.poll() is not None
    left = energy_meter.start_command_meter("while :; do echo 1; sleep 0.01; done")
    assert left.stdin
    assert left.stdout
    left.stdin.close()  # as the system does when this process is gone
    assert left.wait(LONGEST_S) == -9
    left.stdout.close()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {},
            "energy: this device has no sensor of hwmon or rapl; set command to use a meter of your own, or ",
        ),
        (
            {"command": "echo 5"},
            "energy: command gave no values for a part of a round; it must give values all the time",
        ),
    ],
)
def test_without_a_sensor_or_its_values_there_is_no_energy(asked, message, tmp_path):
    with pytest.raises(AgentError) as raised, metered(asked, tmp_path) as meter:
        meter.joules(*window(0.02))
    assert str(raised.value).startswith(message)


def test_a_rail_that_is_not_there_is_named(tmp_path):
    expected = (
        "energy: hwmon has no rail VDD_OUT; available rails are VDD_IN, VDD_CPU_GPU_CV, VDD_SOC"
    )
    with pytest.raises(AgentError, match=expected):
        energy_meter.Meter({"rails": ["VDD_OUT"]}, boards.jetson(tmp_path))


def test_a_sensor_that_is_not_ours_to_read_is_named(tmp_path):
    counter = boards.laptop(tmp_path) / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.unlink()
    counter.mkdir()
    with pytest.raises(
        AgentError,
        match=r"energy: .*energy_uj cannot be read \(Is a directory\); give this user permission",
    ):
        energy_meter.Meter({"source": "rapl"}, tmp_path)
