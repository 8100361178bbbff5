"""What stages and devices exchange; everything here can be written to a folder and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

import numpy as np

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
# what the clock of an emulated device counts: the time of the machine it is emulated on, or its own instructions
Emulation = Literal["wall", "instructions"]
Array = np.ndarray[Any, np.dtype[Any]]


# ---- samples


@dataclass(frozen=True)
class Preprocessing:
    """How one input goes from its source type to the network: (x - mean) / std by channel, then the layout.

    Sources of images are uint8 [H, W, C]; layout "none" leaves the axes alone. The network is fed `dtype`: with another
    than "float32" the values as they are, without mean and std.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC", "none"] = "none"
    dtype: str = "float32"


@dataclass(frozen=True)
class Sample:
    """One sample in its source type, no batch axis; the target is whatever JSON can hold (a label, boxes, text)."""

    id: str
    inputs: Mapping[str, Array]
    target: Any = None


@dataclass(frozen=True)
class Dataset:
    """What a samples stage gives: two disjoint streams, how their inputs are fed, and the names of the labels."""

    calibration: Iterable[Sample]
    evaluation: Iterable[Sample]
    preprocessing: Mapping[str, Preprocessing]
    classes: Sequence[str] = ()


# ---- what a device and its runtime ask of a network


@dataclass(frozen=True)
class Target:
    """What quantization must respect on a device with a runtime: only what no compiler can make up for without loss.

    Devices with one target share their quantized networks.
    """

    saturates: bool = (
        False  # u8 x s8 sums saturate at 16 bits (x86 without VNNI): weights of 7 bits avoid it
    )
    symmetric_only: bool = (
        False  # zero points are the middle of the codes, of weights and of activations
    )
    per_tensor_weights: bool = False  # one scale a weight
    power_of_two_scales: bool = False  # scales are shifts


ANY_TARGET = Target()  # no demands


@dataclass(frozen=True)
class Platform:
    """What a build must fit: the runtime on a device, what it loads, and whose kernels it has."""

    runtime: str = "onnxruntime"
    arch: str = "x86_64"
    max_opset: int = 21
    max_ir_version: int = 10


@dataclass(frozen=True)
class Capabilities:
    """What a device said of itself at its last check."""

    arch: str
    system: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_mb: float
    python: str
    numpy: str
    runtimes: Mapping[str, str]  # runtime -> version
    fingerprint: str  # digest of what can change a result: architecture, features, cpu, versions
    emulated: Emulation | None = (
        None  # times are of an emulator, and no device's; None for hardware
    )
    boot_id: str | None = None  # another after each start of the system; None where it does not say


# ---- builds and devices


@dataclass(frozen=True)
class Build:
    """What compile makes for one runtime: a folder with a build.json beside its files.

    build.json holds runtime, runner (a file in the folder, or one the agent brings), model (file name), options
    (session options, threads) and whatever else its runner wants.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Build:
        """The build in a folder that compile wrote."""
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
    """A folder as it lies on a device, under the digest of its content."""

    path: str
    digest: str
    size: int  # bytes of the folder's files
    sent: int  # bytes that had to travel for it: 0 where the device had them all


@dataclass(frozen=True)
class Deployed:
    """A build on a device."""

    name: str  # model/scheme/build: what the row is called
    build: Build
    stored: Stored
    is_float: bool = False  # this is the float reference of its model


@dataclass(frozen=True)
class Deployments:
    """The fan-in: all builds that reached a device, and the names of those that should have."""

    present: Sequence[Deployed]
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Round:
    """One fresh process of timed inferences on a device; times by the device's monotonic clock."""

    values_ms: Sequence[float]
    load_ms: float
    first_ms: float  # the first inference, before any warmup
    warmups: int
    peak_mb: float  # peak resident memory of the process
    runtime_mb: float  # the same process with the runtime imported and nothing loaded
    load_peak_mb: float | None = (
        None  # its peak until the model was loaded; None where its runner does not say
    )
    run_peak_mb: float | None = (
        None  # its peak after that; None where the system cannot tell it from the one before
    )
    steady: bool | None = (
        None  # whether warmup ended because times were steady; None where it was too short to tell
    )
    batch: int = 1  # samples in each inference
    sustained: Sequence[
        Sequence[float]
    ] = ()  # without pause: each second's [end in s, median in ms, inferences]
    invalid: str | None = (
        None  # why it is not to be believed: `throttled: ..; clocks changed: ..; load: ..`
    )
    environment: Mapping[str, Any] = field(
        default_factory=dict, compare=False
    )  # before and after it, and what was set
    energy: Mapping[str, Any] = field(
        default_factory=dict
    )  # joules, seconds, inferences, idle_w, and of which sensor


@dataclass(frozen=True)
class Placement:
    """The runtime's word on who runs a build's nodes, of the graph as it really runs.

    nodes: provider -> precision -> number. A precision is int8, int4, int16, float32, float16, bfloat16, float64;
    `other` are nodes that move, convert or index values, `compiled` parts of which nobody says in what they compute.
    """

    nodes: Mapping[str, Mapping[str, int]]
    float_nodes: Sequence[
        str
    ] = ()  # names of nodes that compute in float; not more than the runner says


class Progress(Protocol):
    """How a stage says where it is; call it as often as it pleases, it is throttled."""

    def __call__(self, done: float, total: float | None = None, unit: str = "") -> None: ...


@runtime_checkable
class Device(Protocol):
    """What stages may ask of a device, whatever the way to it."""

    name: str
    shares_host: (
        bool  # it is the machine qpipe runs on: nothing else is computed while it is measured
    )

    def capabilities(self) -> Capabilities:
        """Ask the device what it is; raises DeviceError where it cannot be reached or lacks python or numpy."""
        ...

    def store(self, folder: Path, progress: Progress) -> Stored:
        """Bring a folder's files there, each under its sha256, verified on the device; what is there is not sent."""
        ...

    def infer(self, build: Stored, samples: Stored, count: int) -> Iterator[dict[str, Array]]:
        """Run the first `count` stored samples in order, giving the outputs of each by name as they arrive."""
        ...

    def round(
        self,
        build: Stored,
        samples: Stored,
        *,
        warmup_s: float,
        values: int,
        budget_s: float,
        options: Mapping[str, Any] = {},
    ) -> Round:
        """Time `values` inferences of one sample in a fresh process, after at least `warmup_s` seconds of warmup.

        `options` are what else is asked of the round, each left out where it is not: threads, batch, affinity (cores),
        governor, max_load (share of the cores that others may take), cool_to_c and cool_s, sustained_s, energy
        (source, rails, command, command_on: device or host, unit, period_s, idle_s, updates).
        """
        ...

    def placement(self, build: Stored) -> Placement | None:
        """Where the build's nodes run and in which precision; None where its runner does not say."""
        ...

    def clean(
        self,
        *,
        older_than_s: float | None = None,
        keep_bytes: float | None = None,
        dry_run: bool = False,
        runtime: bool = False,
    ) -> int:
        """Remove what was stored on the device: all, or the longest unused, of those unused for so long, until so much
        is left; with `runtime` also what setup brought. The bytes that this freed, or would."""
        ...

    def hold(self, seconds: float, reason: str = "") -> Hold:
        """Keep all runs off the device for so long; BusyError where a run is at it, or somebody else holds it."""
        ...

    def release(self, *, force: bool = False) -> bool:
        """End one's own hold, or anybody's by force; whether there was one."""
        ...

    def close(self) -> None:
        """Let go of the device; nothing is left running there. Who asks it again connects anew."""
        ...


@dataclass(frozen=True)
class Hold:
    """A device kept for a human; the times are by the device's clock, as text."""

    holder: str  # user@host
    since: str
    until: str
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of what looking at a device found, or of what setting it up did; what is bad says what to do."""

    what: str  # python, numpy, clock, ...
    state: Literal["ok", "warning", "bad"]
    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # the same as plain JSON


@runtime_checkable
class Provisioned(Protocol):
    """A device that can say how ready it is, and be made so. Both give their lines as they come, and go on after a bad
    one where that makes sense."""

    def check(self) -> Iterator[Finding]:
        """What is ready there, looked at before any agent is started."""
        ...

    def setup(
        self, *, wheels: Path | None, runtime: str | None, system_runtime: bool
    ) -> Iterator[Finding]:
        """Bring numpy and the requirement `runtime` there, out of the folder `wheels` or a registry, and prove them."""
        ...


class Power(Protocol):
    """What switches the current of a device, where its inventory names such a thing; DeviceError where it cannot."""

    boot_s: float  # seconds after which a device whose current is back answers again, at most

    def off(self) -> None:
        """Take the current away."""
        ...

    def on(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True)
class Introduction:
    """What a device shows to be known by, before it is trusted: the user compares `shown` with what the device says."""

    options: Mapping[str, Any]  # for its entry in devices.yaml; paths relative to that
    shown: str  # as other tools print it: ED25519 SHA256:...
    known: Sequence[str]  # what it was known by until now
    is_known: bool  # what it shows is trusted already
    compare: str  # how to see it on the device itself
    accept: Callable[
        [], str
    ]  # trust what was shown, in place of what was known, and log in; says where it is noted


class Process(Protocol):
    """A process started on a device."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def wait(self, timeout: float) -> int:
        """Its exit status, negative where a signal ended it; TimeoutError once `timeout` seconds are over,
        ConnectionError where the way to it was lost before."""
        ...

    def kill(self) -> None:
        """End it and all it started."""
        ...


class Transport(Protocol):
    """The way to a device: all that a new kind of connection must implement."""

    def start(self, argv: Sequence[str]) -> Process: ...

    def put(self, source: Path, path: str, progress: Progress) -> None:
        """Copy a file to a path below the device's home (or an absolute one)."""
        ...

    def get(self, path: str, target: Path) -> None: ...

    def close(self) -> None: ...


# ---- measuring

SHARE = "share"  # the unit of what lies between 0 and 1 by its nature: people read it as percent


@dataclass(frozen=True)
class Metric:
    """A score as two functions: one contribution per sample, and what reduces them.

    Resampled contributions give the interval, differences give the paired test, so both work for anybody's metric.
    `contribution(prediction, reference)` gets what postprocess made of one sample's outputs (the outputs themselves
    where there is no postprocess) and, by `against`, the sample's target, what float predicted, or the raw outputs of
    float (then the prediction is raw outputs too). The unit "share" says that the number, and that of any samples, lies
    between 0 and 1: it is shown in percent, and its interval stays there.
    """

    name: str
    contribution: Callable[[Any, Any], Any]
    reduce: Callable[[Sequence[Any]], float]
    unit: str = ""
    better: Literal["max", "min"] = "max"
    against: Literal["target", "float", "float_outputs"] = "target"
    resamples: int = 1000  # bootstrap resamples for its interval; a slow reduce asks for fewer


@dataclass(frozen=True)
class Measurement:
    """One number of one deployed build, with its 95 % interval where there is one."""

    metric: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    n: int = 1
    better: Literal["max", "min"] = "min"
    deployed: str = ""  # a fan-in stage names whose number it is
    rounds: Sequence[Sequence[float]] = field(default=())  # raw values
    raw: Literal["rounds", "samples", "resamples"] = (
        "rounds"  # they are: timed values round by round, one per sample
    )
    # in one list, or one per bootstrap resample in one list (drawn alike for all schemes, so that schemes pair up)
    detail: Mapping[str, Any] = field(
        default_factory=dict
    )  # what stands behind the number, as plain JSON
    # of each of `rounds`: {"invalid": why it was left out of the number or None, "environment": before, after, set}
    conditions: Sequence[Mapping[str, Any]] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


# what a recommendation has to keep: metric -> sign and bound
Limits = Mapping[str, tuple[Literal["<", "<=", ">", ">="], float]]
