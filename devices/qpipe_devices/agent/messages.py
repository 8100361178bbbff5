"""The fields of requests and answers, as PROTOCOL.md describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:  # the annotations are never evaluated on the device, which has no qpipe
    from qpipe.types import EnergyReading, RoundEnvironment, RoundOptions


class Request(TypedDict):
    """A request of the host."""

    do: str
    id: int


class CapabilitiesRequest(Request, total=False):
    """Describe the device."""

    sysfs: str


class FilesRequest(Request):
    """Name the files that must be sent."""

    files: Mapping[str, tuple[str, int]]


class BlobRequest(Request):
    """Accept a file that was sent."""

    digest: str


class FolderRequest(FilesRequest):
    """Make a folder of files that were accepted."""

    digest: str


class CleanOptions(TypedDict, total=False):
    """What to remove; a missing key, or None, sets no limit."""

    older_than_s: float | None
    keep_bytes: float | None
    dry_run: bool
    runtime: bool


class CleanRequest(Request, total=False):
    """Remove what is stored on the device."""

    what: CleanOptions


class HoldRequest(Request):
    """Hold the device for a person."""

    lasts_s: float
    reason: str


class ReleaseRequest(Request):
    """End a hold."""

    force: bool


class _BuildFields(Request):
    build: str  # folder
    deadline_s: float


class BuildRequest(_BuildFields, total=False):
    """Start the runner of a build."""

    options: RoundOptions | None


class _InferFields(BuildRequest):
    samples: str  # folder
    count: int


class InferRequest(_InferFields, total=False):
    """Infer samples in order."""

    first: int


class _RoundFields(BuildRequest):
    samples: str  # folder
    values: int
    warmup_s: float
    budget_s: float


class RoundRequest(_RoundFields, total=False):
    """Time inferences of the first sample in a fresh process."""

    key: int


class _LoadFields(TypedDict):
    load_ms: float
    runtime_mb: float
    inputs: Sequence[str]
    outputs: Sequence[str]


class LoadAnswer(_LoadFields, total=False):
    """A runner's answer to `load`."""

    threads: int
    load_peak_mb: float


class _TimeFields(TypedDict):
    first_ms: float
    warmups: int
    values_ns: Sequence[int]
    peak_mb: float


class TimeAnswer(_TimeFields, total=False):
    """A runner's answer to `time`."""

    steady: bool | None
    window_ns: Sequence[int]
    run_peak_mb: float
    sustained: Sequence[Sequence[float]]


class RoundAnswer(LoadAnswer, TimeAnswer, total=False):
    """The agent's answer to `round`."""

    batch: int
    invalid: str | None
    environment: RoundEnvironment
    energy: EnergyReading
    rest_ns: Sequence[int]


class PlacementAnswer(TypedDict, total=False):
    """An answer to `placement`; without `nodes` the runner does not know."""

    nodes: Mapping[str, Mapping[str, int]]
    float_nodes: Sequence[str]


class MissingAnswer(TypedDict):
    """The digests that must be sent, the free space in bytes, and the mount that it is of."""

    missing: Sequence[str]
    free: int
    mount: str


class Hold(TypedDict):
    """A person's hold; the times are texts, `ends` is in seconds since 1970."""

    holder: str
    since: str
    until: str
    ends: float
    reason: str


class Greeting(TypedDict):
    """The agent's first message."""

    root: str  # the device's folder
    incoming: str  # the folder for files that are sent
    token: int  # the number of the lease
