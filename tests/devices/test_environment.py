"""What is seen of a device around a round, on trees as boards have them; and which rounds are not to be believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boards_sysfs as boards
import pytest

from qpipe_devices.agent import cpu_load, environment
from waiting import ended_at_last, wait_until

Tree = Callable[[Path], Path]
COOLING = f"{boards.THERMAL}/cooling_device1"


@pytest.mark.parametrize(
    ("tree", "governors", "hottest", "throttling"),
    [
        (boards.pi4, ["ondemand"], 48.212, {"under-voltage state": 0, "get_throttled": 0}),
        (boards.pi5, ["ondemand"], 51.8, {"get_throttled": 0}),
        (
            boards.jetson, ["schedutil", "schedutil"], 45.0,
            {"cooling_device1 (thermal-cpufreq-0) state": 0, "cooling_device1 (thermal-cpufreq-0) transitions": 4},
        ),
        (
            boards.laptop, ["powersave", "powersave"], 61.0,
            {
                "cooling_device0 (Processor) state": 0, "cooling_device1 (intel_powerclamp) state": -1,
                "core_throttle_count": 8, "package_throttle_count": 9,
            },
        ),
        (boards.amd, ["schedutil"], 63.5, None),
        (boards.server, ["performance"], None, {"core_throttle_count": 0, "package_throttle_count": 47}),
    ],
    ids=["pi4", "pi5", "jetson", "laptop", "amd", "server"],
)  # fmt: skip
def test_a_snapshot_has_what_the_board_tells_in_units_of_people(
    tree, governors, hottest, throttling, tmp_path
):
    seen = environment.snapshot(tree(tmp_path))
    assert list(seen["governor"].values()) == governors
    assert environment.hottest(seen.get("temperature_c", {})) == hottest
    assert seen.get("throttling") == throttling
    assert seen["load"] == [0.1, 0.2, 0.3]
    assert seen["memory_available_mb"] == 2048.0
    assert (seen["kernel"], seen["uptime_s"]) == ("6.6.31+rpt-rpi-v8", 1234.56)


def test_frequencies_and_turbo_are_those_of_cpufreq(tmp_path):
    seen = environment.snapshot(boards.laptop(tmp_path))
    assert seen["frequency_khz"]["policy1"] == {"cur": 2800000, "min": 400000, "max": 4200000}
    assert seen["boost"] is True


@pytest.mark.parametrize("file", environment.FIRMWARE_FILES)
def test_the_version_of_the_firmware_is_read(file, tmp_path):
    boards.write(tmp_path, {file: "2026/05/08 15:32:12\0"})
    assert environment.snapshot(tmp_path)["firmware"] == "2026/05/08 15:32:12"


def test_where_nothing_is_told_nothing_is_said(tmp_path):
    assert environment.snapshot(tmp_path) == {}
    assert environment.disturbances({}, {}) == []


def test_this_machine_can_be_looked_at():
    seen = environment.snapshot(Path("/"), os.getpgid(0))
    assert seen["kernel"] == os.uname().release
    assert seen["switches"]["voluntary"] >= 0


THREADED = """
import os, threading, time
def nap():
    for _ in range(200):
        time.sleep(0.0001)
    os.write(1, b"\\n")
    time.sleep(600)
if os.fork():
    threading.Thread(target=nap).start()
    time.sleep(600)
nap()
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_context_switches_are_those_of_all_threads_of_the_runner():
    """Its main thread sleeps; another one and a process that it started switch 200 times each."""
    child = subprocess.Popen(
        [sys.executable, "-c", THREADED], start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout
        assert [child.stdout.readline() for _ in range(2)] == [b"\n"] * 2
        seen = environment.snapshot(Path("/"), child.pid)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    assert seen["switches"]["voluntary"] >= 400


@pytest.mark.parametrize(
    ("tree", "changed", "reasons"),
    [
        (boards.pi4, {}, []),
        (boards.pi4, {f"{boards.CPU}/cpufreq/policy0/scaling_cur_freq": 1800000}, []),
        (boards.pi5, {f"{boards.THERMAL}/cooling_device0/cur_state": 3}, []),  # its fan
        (
            boards.pi4, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005"},
            ["throttled: under-voltage, throttled (get_throttled 0x50005)"],
        ),
        (boards.pi5, {"word": "throttled=0x20000"}, ["throttled: frequency capped (get_throttled 0x20000)"]),
        (boards.pi4, {f"{boards.HWMON}/hwmon1/in0_lcrit_alarm": 1}, ["throttled: under-voltage state 1"]),
        (
            boards.jetson, {f"{COOLING}/cur_state": 2},
            ["throttled: cooling_device1 (thermal-cpufreq-0) state 2"],
        ),
        (
            boards.jetson, {f"{COOLING}/stats/total_trans": 6},
            ["throttled: cooling_device1 (thermal-cpufreq-0) transitions rose by 2"],
        ),
        (
            boards.laptop, {f"{boards.CPU}/cpu1/thermal_throttle/core_throttle_count": 6},
            ["throttled: core_throttle_count rose by 1"],
        ),
        (
            boards.server, {
                f"{boards.CPU}/cpu2/thermal_throttle/package_throttle_count": 9,
                f"{boards.CPU}/cpu3/thermal_throttle/package_throttle_count": 9,
            },
            ["throttled: package_throttle_count rose by 2"],
        ),
        (
            boards.laptop, {f"{boards.CPU}/cpufreq/policy1/scaling_max_freq": 2000000},
            ["clocks changed: limit of policy1 from 4200 to 2000 MHz"],
        ),
        (
            boards.laptop, {f"{boards.CPU}/cpufreq/policy0/scaling_governor": "performance"},
            ["clocks changed: governor of policy0 from powersave to performance"],
        ),
    ],
)  # fmt: skip
def test_a_round_is_disturbed_by_throttling_and_by_changed_clocks(tree, changed, reasons, tmp_path):
    before = environment.snapshot(tree(tmp_path))
    after = environment.snapshot(boards.write(tmp_path, changed))
    assert environment.disturbances(before, after) == reasons


def test_what_happened_since_boot_but_before_the_round_does_not_disturb_it(tmp_path):
    boards.write(
        boards.pi4(tmp_path), {"sys/devices/platform/soc/soc:firmware/get_throttled": "50000"}
    )
    before = environment.snapshot(tmp_path)
    assert environment.disturbances(before, environment.snapshot(tmp_path)) == []


def ticks(of: dict[int, int]) -> str:
    return "\n".join(f"cpu{core} {busy} 0 0 5000 0 0 0 0 0 0" for core, busy in of.items())


def test_load_is_what_others_took_of_the_cores_that_count(tmp_path):
    tick = os.sysconf("SC_CLK_TCK")
    stat = f"1 (run er) S 1 77 77 0 -1 0 0 0 0 0 {{}} 0 0 0 {'0 ' * 20}"
    boards.write(
        tmp_path, {"proc/stat": ticks({0: 0, 1: 0, 2: 0}), "proc/900/stat": stat.format(0)}
    )
    load = cpu_load.CpuLoad(tmp_path, 77, {0, 1}, now=10.0)
    # in 100 s: all of core 0 and half of core 1 were busy; the runner's group took 90 s of that
    after = ticks({0: 100 * tick, 1: 50 * tick, 2: 100 * tick})
    boards.write(tmp_path, {"proc/stat": after, "proc/900/stat": stat.format(90 * tick)})
    assert load.others(now=110.0) == pytest.approx(
        (150 - 90) / 200, abs=0.01
    )  # less what this very process took


@pytest.mark.parametrize("quota", ["200000 100000", None])
def test_load_is_not_told_where_cores_are_shared_by_quota_or_the_kernel_says_nothing(
    quota, tmp_path
):
    if quota:
        boards.write(tmp_path, {"proc/stat": ticks({0: 0}), "sys/fs/cgroup/cpu.max": quota})
    assert cpu_load.CpuLoad(tmp_path, 1, {0}, 0.0).others(10.0) is None


def ticks_of(pid: int) -> int:
    """The CPU time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_busy_neighbour_is_noticed_on_this_machine():
    if cpu_load.CpuLoad(Path("/"), 0, os.sched_getaffinity(0), 0.0).busy is None:
        pytest.skip("this machine does not tell its load")
    core = {min(os.sched_getaffinity(0))}
    script = f"import os\nos.sched_setaffinity(0, {core})\nprint(flush=True)\nwhile True: pass"
    command = [sys.executable, "-c", script]
    neighbour = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    idle = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with ended_at_last(neighbour), ended_at_last(idle):
        assert neighbour.stdout
        assert neighbour.stdout.readline() == b"\n"
        load = cpu_load.CpuLoad(Path("/"), idle.pid, core, time.monotonic())
        load_beside_it = cpu_load.CpuLoad(Path("/"), neighbour.pid, core, time.monotonic())
        before = ticks_of(neighbour.pid)
        assert wait_until(lambda: ticks_of(neighbour.pid) >= before + 20)
        now = time.monotonic()
        others = load.others(now)
        without = load_beside_it.others(now)
    assert others is not None
    assert without is not None
    assert (
        others > without
    )  # which does not count the neighbour, however busy the machine is beside it
