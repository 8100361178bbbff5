"""Energy of an inference, on this machine's device with a sensor whose power is known."""

from __future__ import annotations

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
        for name, value in {"name": "ina226", "curr1_input": 400, "in1_input": 5000, "power1_input": 2000000}.items():
            (sensor / name).write_text(f"{value}\n", encoding="utf-8")
        self.device = local("board", folder=folder / "board", sysfs=folder / "tree")
        pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
        how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
        samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("0", pixels)], how)
        self.samples = self.device.store(samples.folder, nothing)
        files = {"run_worker.py": WORKER.replace("INFERENCES", str(inferences)), "power": str(sensor / "power1_input")}
        build = write_build(folder / "build", "run_worker.py", files)
        self.deployed = qpipe.Deployed("net/int8/ort", build, self.device.store(build.folder, nothing))

    def measure(self, **options: object) -> dict[str, qpipe.Measurement]:
        given = {"rounds": 2, "idle_s": 0.1, "period_s": 0.004, "updates": 10, **options}
        found = energy(self.deployed, self.device, self.samples, nothing, **given)
        return {each.metric: each for each in found}


def test_energy_is_power_over_time_gross_and_net_of_idle(tmp_path):
    bench = Bench(tmp_path, 60)
    try:
        found = bench.measure()
    finally:
        bench.device.close()
    power, gross, net = found["power_w"], found["energy_mj"], found["energy_net_mj"]
    seconds = np.array(gross.detail["seconds"])
    assert 4.9 <= power.value <= 5.1
    assert gross.detail["idle_w"] == pytest.approx([2.0, 2.0])
    each_ms = 1000 * seconds / 60
    raw = np.array([value for (value,) in gross.rounds])
    assert ((raw >= 4.9 * each_ms) & (raw <= 5.1 * each_ms)).all()
    assert np.array([value for (value,) in net.rounds]) == pytest.approx(raw - 2.0 * each_ms)
    assert gross.low <= gross.value <= gross.high
    assert (gross.unit, power.unit, gross.detail["source"], gross.detail["rails"]) == ("mJ", "W", "hwmon", ["ina226"])
    assert (gross.deployed, gross.detail["inferences"]) == ("net/int8/ort", [60, 60])


def test_a_window_with_too_few_new_values_is_refused(tmp_path):
    bench = Bench(tmp_path, 4)
    try:
        with pytest.raises(
            qpipe.DeviceError, match=r"^board: energy: hwmon had \d new values in 0\.\d+ s, 10 are needed"
        ):
            bench.measure()
    finally:
        bench.device.close()


def test_a_device_that_measures_no_energy_is_told(tmp_path):
    bench = Bench(tmp_path, 4)
    bench.device.sysfs = str(tmp_path / "nowhere")
    try:
        with pytest.raises(qpipe.DeviceError, match=r"^board: energy: this device has no sensor of hwmon or rapl; set"):
            bench.measure()
    finally:
        bench.device.close()
