"""The values that stages and devices exchange. Each can be written to a folder and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

import numpy as np
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from qpipe import raw_values

Kind = Literal[
    "samples",
    "import",
    "transform",
    "calibrate",
    "quantize",
    "compile",
    "deploy",
    "postprocess",
    "metric",
    "measure",
]
# what the clock of an emulated device counts: the host's time, or executed instructions
Emulation = Literal["wall", "instructions"]
Array = np.ndarray[Any, np.dtype[Any]]


# ---- samples


@dataclass(frozen=True)
class Preprocessing:
    """How one input is converted from its source type: (x - mean) / std by channel, then layout.

    Images come as uint8 [H, W, C]; layout "none" keeps the order of axes. The network receives
    values of type `dtype`. With a type that is not floating-point the values are passed on
    unchanged, without mean and std.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC", "none"] = "none"
    dtype: str = "float32"


@dataclass(frozen=True)
class Sample:
    """One sample in its source type, with or without the network's batch axis of 1.

    The target is any value that JSON can hold: a label, boxes, text.
    """

    id: str
    inputs: Mapping[str, Array]
    target: Any = None


@dataclass(frozen=True)
class Dataset:
    """The result of a samples stage: two disjoint streams, their preprocessing, label names.

    A stream that is a Sequence gives a single sample without reading those before it.

    `decode` is how the stage turns a file into the inputs of a sample: a function of a module that
    takes the path, or functools.partial of one with its options by keyword. What `qpipe export`
    writes feeds other files by it, where its module imports numpy, Pillow, the standard library,
    and modules of which that holds too, and nothing else.
    """

    calibration: Iterable[Sample]
    evaluation: Iterable[Sample]
    preprocessing: Mapping[str, Preprocessing]
    classes: Sequence[str] = ()
    decode: Callable[[Path], Mapping[str, Array]] | None = None


# ---- what a device and its runtime require of a network


@dataclass(frozen=True)
class Target:
    """What quantization must respect on a device with a runtime.

    It holds only what no compiler can make up for without loss. Devices with the same target
    share their quantized networks.
    """

    # sums of two u8 x s8 products saturate at 16 bits (x86 without VNNI): qpipe.quant.saturation
    saturates: bool = False
    # zero points of weights and activations are the middle of the range of codes
    symmetric_only: bool = False
    # one scale for a whole weight
    per_tensor_weights: bool = False
    # scales are bit shifts
    power_of_two_scales: bool = False


ANY_TARGET = Target()  # no requirement


@dataclass(frozen=True)
class Resources:
    """What a stage takes of the machine that it runs on, or what a machine has.

    Of a stage with an option `threads`, that option says it; what its option `memory_mb` allows is
    added to `memory_mb`.
    """

    threads: int = 1  # 0 for as many as there are
    memory_mb: int = 0  # besides that of a bare process
    gpus: int = 0  # that it uses where there are some


@dataclass(frozen=True)
class Platform:
    """What a build must fit: the runtime on a device, the versions it loads, its architecture."""

    runtime: str = "onnxruntime"
    arch: str = "x86_64"
    max_opset: int = 21
    max_ir_version: int = 10


@dataclass(frozen=True)
class Capabilities:
    """What a device reported about itself at its last check."""

    arch: str
    system: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_mb: float
    python: str
    numpy: str
    runtimes: Mapping[str, str]  # runtime -> version
    # digest of everything that can change a result: architecture, features, cpu, versions
    fingerprint: str
    # what the clock of an emulator counts; None for hardware
    emulated: Emulation | None = None
    # changes with each start of the system; None where the device does not report it
    boot_id: str | None = None


# ---- builds and devices


@dataclass(frozen=True)
class Build:
    """What compile makes for one runtime: a folder with a build.json beside its other files.

    build.json holds runtime, runner (a file in the folder, or one that the agent brings), model
    (file name), options (session options, threads) and anything else that its runner reads.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Build:
        """Return the build in a folder that compile wrote."""
        return cls(folder, json.loads((folder / "build.json").read_text(encoding="utf-8")))

    @classmethod
    def write(cls, folder: Path, manifest: Mapping[str, Any]) -> Build:
        """Write build.json into a folder that holds the build's other files."""
        text = json.dumps(manifest, indent=1, sort_keys=True)
        (folder / "build.json").write_text(text + "\n", encoding="utf-8")
        return cls(folder, dict(manifest))

    @property
    def files(self) -> list[Path]:
        """All files of the build, sorted by name."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Stored:
    """A folder stored on a device under the digest of its content."""

    path: str
    digest: str
    size: int  # bytes of the folder's files
    sent: int  # bytes that were sent for it: 0 where the device had them all


@dataclass(frozen=True)
class Deployed:
    """A build on a device."""

    name: str  # model/scheme/build: the name of its row
    build: Build
    stored: Stored
    is_float: bool = False  # whether it is the float reference of its model


@dataclass(frozen=True)
class Deployments:
    """A fan-in: all builds that reached a device, and the names of those that did not."""

    present: Sequence[Deployed]
    missing: Sequence[str] = ()


class EnergyOptions(TypedDict, total=False):
    """How the energy of a round is measured; a missing key takes its default."""

    source: Literal["auto", "hwmon", "rapl"]
    rails: Sequence[str]
    command: str | None  # a meter: prints one number a line
    command_on: Literal["device", "host"]
    unit: Literal["W", "J"]  # of the numbers that the command prints
    period_s: float
    idle_s: float
    updates: int  # new values of the sensor that a round needs


class RoundOptions(TypedDict, total=False):
    """What a round is run with beside its number of values; a missing key asks for nothing."""

    threads: int  # of one inference
    batch: int  # samples in each inference
    affinity: Sequence[int]  # cores
    governor: str
    max_load: float  # share of those cores that other processes may take
    cool_to_c: float
    cool_s: float
    sustained_s: float
    energy: EnergyOptions
    # set by a device's driver, not by a stage
    rest_s: float  # idle time for a meter at the host
    sysfs: str  # the folder that holds sys and proc


class EnergyReading(TypedDict, total=False):
    """The energy of one round; empty where none was measured."""

    joules: float
    seconds: float
    inferences: int  # samples
    idle_w: float
    source: str  # hwmon, rapl or command
    rails: Sequence[str]
    updates: int
    period_s: float


class EnvironmentSnapshot(TypedDict, total=False):
    """The state of a device at one moment; what the device does not report is missing."""

    governor: Mapping[str, str]  # by cpufreq policy
    frequency_khz: Mapping[str, Mapping[str, int]]  # cur, min and max by cpufreq policy
    boost: bool
    temperature_c: Mapping[str, float]  # by thermal zone
    throttling: Mapping[str, int]
    load: Sequence[float]  # averages over 1, 5 and 15 minutes
    memory_available_mb: float
    switches: Mapping[str, int]  # context switches of the runner
    kernel: str
    boot_id: str
    uptime_s: float


class RoundEnvironment(TypedDict, total=False):
    """The device around one round, and what was set for it."""

    before: EnvironmentSnapshot
    after: EnvironmentSnapshot
    governor: str
    affinity: Sequence[int]
    start_c: float  # temperature at the start
    waited_s: float  # time spent to cool down
    unlocked: str  # what could not be set, and why
    too_warm: str
    others: float  # share of the cores that other processes took


@dataclass(frozen=True)
class Round:
    """One fresh process of timed inferences on a device, by the device's monotonic clock."""

    values_ms: Sequence[float]
    load_ms: float
    first_ms: float  # the first inference, before any warmup
    warmups: int
    peak_mb: float  # peak resident memory of the process
    runtime_mb: float  # resident memory with the runtime imported and nothing loaded
    # peak until the model was loaded; None where the runner does not report it
    load_peak_mb: float | None = None
    # peak after loading; None where the system cannot tell it from the peak before
    run_peak_mb: float | None = None
    # whether warmup ended because times were steady; None where it was too short to tell
    steady: bool | None = None
    batch: int = 1  # samples in each inference
    # load without pause, one entry a second: [end in s, median in ms, inferences]
    sustained: Sequence[Sequence[float]] = ()
    # why it must not be used: `throttled: ..; clocks changed: ..; load: ..`
    invalid: str | None = None
    # the device before and after the round, and what was set for it
    environment: RoundEnvironment = field(default_factory=RoundEnvironment, compare=False)
    energy: EnergyReading = field(default_factory=EnergyReading)


@dataclass(frozen=True)
class Placement:
    """Which provider runs how many nodes of a build, as the runtime reports for the loaded graph.

    nodes: provider -> precision -> count. A precision is int8, int4, int16, float32, float16,
    bfloat16, float64; `other` counts nodes that move, convert or index values, `compiled` counts
    parts whose precision is not reported.
    """

    nodes: Mapping[str, Mapping[str, int]]
    # names of nodes that compute in float, as far as the runner reports them
    float_nodes: Sequence[str] = ()


class Progress(Protocol):
    """How a stage reports its progress. Calls are throttled, so a stage may call often.

    What follows a comma in `unit` is shown behind the rest: "steps, loss 0.02".
    """

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None: ...


@dataclass(frozen=True)
class Look:
    """What a device is, and who has it."""

    capabilities: Capabilities
    holder: str = ""  # user, time and purpose in words; "" where nobody does


@runtime_checkable
class Leased(Protocol):
    """A device with a lease: its first request takes it, `close` gives it back."""

    purpose: str  # what it is used for, which others who ask for it are told
    waits: bool  # whether it asks again where others have it: then it comes next

    @property
    def others_wait(self) -> bool:
        """Whether others wait for the lease that this object has."""
        ...

    def look(self) -> Look:
        """Ask the device what it is and who has it, without its lease."""
        ...


@runtime_checkable
class Device(Protocol):
    """What stages may ask of a device, whatever connects to it."""

    name: str
    # whether it is the machine that qpipe runs on: nothing else computes while it is measured
    shares_host: bool

    def capabilities(self) -> Capabilities:
        """Ask the device what it is.

        Raise DeviceError where it cannot be reached, or lacks python or numpy.
        """
        ...

    def store(self, folder: Path, progress: Progress) -> Stored:
        """Copy a folder's files to the device, each under its sha256, and verify them there.

        Files that the device has already are not sent.
        """
        ...

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Run the first `count` stored samples in order; yield the outputs of each by name."""
        ...

    def round(
        self,
        build: Stored,
        samples: Stored,
        *,
        warmup_s: float,
        values: int,
        budget_s: float,
        options: RoundOptions | None = None,
    ) -> Round:
        """Time `values` inferences of one sample in a fresh process.

        At least `warmup_s` seconds of warmup come first. `options` are further requests for the
        round, each left out where it does not apply: threads, batch, affinity (cores), governor,
        max_load (share of the cores that other processes may take), cool_to_c and cool_s,
        sustained_s, energy (source, rails, command, command_on: device or host, unit, period_s,
        idle_s, updates).
        """
        ...

    def placement(self, build: Stored) -> Placement | None:
        """Return where the build's nodes run, in which precision; None where it is not reported."""
        ...

    def clean(
        self,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """Remove what was stored on the device, and return the number of bytes freed.

        Everything goes unless `older_than_s` keeps what was used since, or `keep_bytes` ends the
        removal, longest unused first, once so much is left. `runtime` also removes what setup
        installed. `dry_run` only counts.
        """
        ...

    def hold(self, seconds: float, reason: str = "") -> Hold:
        """Keep all runs off the device for `seconds`.

        Raise BusyError where a run uses it, or somebody else holds it.
        """
        ...

    def release(self, *, force: bool = False) -> bool:
        """End one's own hold, or anybody's with `force`; return whether there was one."""
        ...

    def close(self) -> None:
        """Close the connection and leave nothing running there. A later call connects again."""
        ...


@dataclass(frozen=True)
class Hold:
    """A device reserved for a person; times are text, by the device's clock."""

    holder: str  # user@host
    since: str
    until: str
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of a check or setup of a device; a bad one says what to do."""

    what: str  # python, numpy, clock, ...
    state: Literal["ok", "warning", "bad"]
    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # the same as plain JSON


@runtime_checkable
class Provisioned(Protocol):
    """A device that can be checked for readiness and set up.

    Both methods yield their lines as they come, and go on after a bad one where that makes sense.
    """

    def check(self) -> Iterator[Finding]:
        """Check what is ready there, before any agent is started."""
        ...

    def setup(
        self, *, wheels: Path | None, runtime: str | None, system_runtime: bool
    ) -> Iterator[Finding]:
        """Install numpy and the requirement `runtime`, and verify that they compute.

        Wheels come from the folder `wheels` where given, else from a package registry.
        """
        ...


class Power(Protocol):
    """A switch for the power supply of a device; raises DeviceError where it cannot switch."""

    boot_s: float  # seconds until the device answers again after power is restored, at most

    def off(self) -> None:
        """Switch the power off."""
        ...

    def on(self) -> None:
        """Switch the power on."""
        ...


@dataclass(frozen=True)
class Introduction:
    """The identity that a device shows before it is trusted.

    The user compares `shown` with what the device itself displays.
    """

    options: Mapping[str, Any]  # for its entry in devices.yaml; paths are relative to that file
    shown: str  # as other tools print it: ED25519 SHA256:...
    known: Sequence[str]  # identities trusted so far
    is_known: bool  # whether the identity it shows is trusted already
    compare: str  # how to display it on the device itself
    # trust the shown identity in place of the known ones, and log in; return where it is recorded
    accept: Callable[[], str]


class Process(Protocol):
    """A process started on a device."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def wait(self, timeout: float) -> int:
        """Return its exit status, negative where a signal ended it.

        Raise TimeoutError after `timeout` seconds, ConnectionError where the connection was lost.
        """
        ...

    def kill(self) -> None:
        """End it and all processes that it started."""
        ...


class Transport(Protocol):
    """A connection to a device: all that a new kind of connection must implement."""

    def start(self, argv: Sequence[str]) -> Process:
        """Start a process on the device."""
        ...

    def put(self, source: Path, path: str, progress: Progress) -> None:
        """Copy a file to a path relative to the device's home, or an absolute one."""
        ...

    def get(self, path: str, target: Path) -> None:
        """Copy a file from the device."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


# ---- measuring

# the unit of values that lie between 0 and 1 by definition; they are shown in percent
SHARE = "share"


@dataclass(frozen=True)
class Metric:
    """A score as two functions: a contribution per sample, and a reduction over samples.

    Resampled contributions give the interval, differences of contributions the paired test, so
    both work for any metric. `contribution(prediction, reference)` gets the postprocessed outputs
    of one sample (the raw outputs where there is no postprocess) and a reference by `against`: the
    sample's target, the prediction of the float network, or its raw outputs (the prediction is raw
    outputs then, too). The unit "share" states that the value, for any samples, lies between 0 and
    1: it is shown in percent, and its interval stays within these bounds.
    """

    name: str
    contribution: Callable[[Any, Any], Any]
    reduce: Callable[[Sequence[Any]], float]
    unit: str = ""
    better: Literal["max", "min"] = "max"
    against: Literal["target", "float", "float_outputs"] = "target"
    resamples: int = 1000  # bootstrap resamples for its interval; fewer suit a slow reduction
    # whether a sequence contributes the mean of what the raw outputs of its chunks contribute
    by_chunk: bool = False
    # the outputs of a sample that it cannot compare with the reference, and why; the measurement
    # names them
    not_compared: Callable[[Any, Any], Mapping[str, str]] | None = None
    first: int = 0  # the index of label 0 among the scores of classes


@dataclass(frozen=True)
class Measurement:
    """One value of one deployed build, with its 95 % interval where there is one."""

    metric: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    n: int = 1
    better: Literal["max", "min"] = "min"
    deployed: str = ""  # the row it belongs to, where a fan-in stage measures several
    rounds: Sequence[Sequence[float]] = field(default=())  # raw values
    # what the raw values are: timed values by round; one value per sample, in one list; or one
    # per bootstrap resample, in one list (the same draws for all schemes, so that they pair up)
    raw: Literal["rounds", "samples", "resamples"] = "rounds"
    # what the value was computed from, as plain JSON
    detail: Mapping[str, Any] = field(default_factory=dict)
    # for each of `rounds`: {"invalid": reason to leave it out, or None, "environment": ...}
    conditions: Sequence[Mapping[str, Any]] = field(default=())

    @cached_property
    def disturbed_rounds(self) -> set[int]:
        """The rounds that do not count; none where all were disturbed."""
        return raw_values.disturbed_rounds(self.conditions)

    @cached_property
    def series(self) -> raw_values.Series | None:
        """The values that pair up with another's; None where the value is not made of them.

        Of rounds they are the medians of those that count.
        """
        rounds: dict[int, Sequence[float]] = {}
        for number, values in enumerate(self.rounds):
            if len(values) and number not in self.disturbed_rounds:
                rounds[number] = values
        if not rounds:
            return None
        if self.raw == "rounds":
            return raw_values.series_of_rounds(self.value, rounds)
        if self.raw == "samples":
            return raw_values.series_of_samples(self.value, rounds)
        return raw_values.series_of_resamples(rounds)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


# what a recommendation must satisfy: metric -> comparison and bound
Limits = Mapping[str, tuple[Literal["<", "<=", ">", ">="], float]]
