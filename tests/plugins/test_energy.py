"""Energy of an inference, on this machine's device with a sensor whose power is known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import qpipe
from qpipe_devices import local
from qpipe_plugins.measure.energy import energy
from small_build import nothing, write_build

# idle it takes 2 W, at work 4.9 and 5.1 in turn; it counts on the clock that the agent's is, too
WORKER = """
import json, sys, time
from pathlib import Path
def answer(**fields):
    sys.stdin.buffer.readline()
    return lambda: print(json.dumps({**fields, "arrays": []}), flush=True)
answer(load_ms=1, runtime_mb=1, inputs=["image"], outputs=[])()
power = Path(Path("power").read_text())
sys.stdin.buffer.readline()
def take(microwatts):
    aside = power.with_suffix(".new")
    aside.write_text(str(microwatts))
    aside.replace(power)
take(5000000)
time.sleep(0.1)
start = time.monotonic_ns()
for number in range(INFERENCES):
    take(4900000 if number % 2 else 5100000)
    time.sleep(0.008)
end = time.monotonic_ns()
time.sleep(0.1)
take(2000000)
time.sleep(0.05)
timed = {"first_ms": 8, "warmups": 0, "values_ns": [8000000] * INFERENCES, "peak_mb": 2, "window_ns": [start, end]}
print(json.dumps({**timed, "arrays": []}), flush=True)
sys.stdin.read()
"""


class Bench:
    """A device with an INA226, and a build that works so many times."""

    def __init__(self, folder: Path, inferences: int) -> None:
        sensor = folder / "tree/sys/class/hwmon/hwmon2"
        sensor.mkdir(parents=True)
        for name, value in {
            "name": "ina226",
            "curr1_input": 400,
            "in1_input": 5000,
            "power1_input": 2000000,
        }.items():
            (sensor / name).write_text(f"{value}\n", encoding="utf-8")
        self.device = local("board", folder=folder / "board", sysfs=folder / "tree")
        pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
        how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
        samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("0", pixels)], how)
        self.samples = self.device.store(samples.folder, nothing)
        files = {
            "run_worker.py": WORKER.replace("INFERENCES", str(inferences)),
            "power": str(sensor / "power1_input"),
        }
        build = write_build(folder / "build", "run_worker.py", files)
        self.deployed = qpipe.Deployed(
            "net/int8/ort", build, self.device.store(build.folder, nothing)
        )
        self.others: list[qpipe.Deployed] = []
        self.work = folder / "work"
        self.work.mkdir()
        told = "printf '%d.%06d\\n' $((p / 1000000)) $((p % 1000000))"
        self.meter = f"while :; do read p < {sensor}/power1_input; {told}; sleep 0.004; done"

    def measure(self, **options: object) -> dict[str, qpipe.Measurement]:
        given = {"rounds": 2, "idle_s": 0.1, "period_s": 0.004, "updates": 10, **options}
        builds = [self.deployed, *self.others]
        samples = {each.name: self.samples for each in builds}
        found = energy(qpipe.Deployments(builds), self.device, samples, self.work, nothing, **given)
        return {each.metric: each for each in found if each.deployed == self.deployed.name}


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, 60)
    yield bench
    bench.device.close()


def test_energy_is_power_over_time_gross_and_net_of_idle(bench):
    found = bench.measure()
    power, gross, net = found["power_w"], found["energy_mj"], found["energy_net_mj"]
    seconds = np.array(gross.detail["seconds"])
    assert 4.9 <= power.value <= 5.1
    assert gross.detail["idle_w"] == pytest.approx([2.0, 2.0])
    each_ms = 1000 * seconds / 60
    raw = np.array([value for (value,) in gross.rounds])
    assert ((raw >= 4.9 * each_ms) & (raw <= 5.1 * each_ms)).all()
    assert np.array([value for (value,) in net.rounds]) == pytest.approx(raw - 2.0 * each_ms)
    assert gross.low <= gross.value <= gross.high
    assert (gross.unit, power.unit, gross.detail["source"], gross.detail["rails"]) == (
        "mJ",
        "W",
        "hwmon",
        ["ina226"],
    )
    assert (gross.deployed, gross.detail["inferences"]) == ("net/int8/ort", [60, 60])


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores"
)
def test_a_round_is_asked_for_like_one_of_latency(bench):
    core = min(os.sched_getaffinity(0))
    gross = bench.measure(rounds=1, affinity=[core], cool_to_c=200, max_load=1)["energy_mj"]
    around = gross.conditions[0]["environment"]
    assert around["affinity"] == [core]
    assert "too_warm" not in around


def test_a_window_with_too_few_new_values_is_refused(tmp_path):
    bench = Bench(tmp_path, 4)
    try:
        expected = r"^energy: no build ran: board: energy: hwmon gave \d new values in 0\.\d+ s, at least 10 are needed"
        with pytest.raises(qpipe.StageError, match=expected):
            bench.measure()
    finally:
        bench.device.close()


def test_a_device_that_measures_no_energy_is_told(bench, tmp_path):
    bench.device.sysfs = str(tmp_path / "nowhere")
    expected = (
        r"^energy: no build ran: board: energy: this device has no sensor of hwmon or rapl; set"
    )
    with pytest.raises(qpipe.StageError, match=expected):
        bench.measure()


def test_a_meter_at_the_host_tells_the_same_of_the_devices_window(bench):
    found = bench.measure(command=bench.meter, command_on="host", idle_s=0.3)
    power, gross = found["power_w"], found["energy_mj"]
    assert 4.8 <= power.value <= 5.2
    assert gross.detail["idle_w"] == pytest.approx([2.0, 2.0], abs=0.01)
    assert gross.detail["source"] == "command"


def test_a_meter_at_the_host_that_tells_too_little_is_refused(bench):
    with pytest.raises(
        qpipe.StageError,
        match=r"^energy: no build ran: board: energy: command gave no values for a part",
    ):
        bench.measure(command="echo 5", command_on="host")
    with pytest.raises(
        qpipe.StageError, match=r"^energy: a meter at the host is a command; give one, or leave"
    ):
        bench.measure(command_on="host")


def test_builds_work_in_turn_and_one_that_fails_drops_out(bench, tmp_path):
    broken = write_build(
        tmp_path / "broken", "run_worker.py", {"run_worker.py": "import os; os.abort()"}
    )
    bench.others.append(
        qpipe.Deployed("net/int4/ort", broken, bench.device.store(broken.folder, nothing))
    )
    with pytest.raises(
        qpipe.IncompleteError, match=r"^energy: 1 of 2 builds did not run: net/int4/ort: "
    ) as raised:
        bench.measure(rounds=1)
    assert {each.deployed for each in raised.value.measurements} == {"net/int8/ort"}
