"""The whole plugin API: every hook, what it is handed, and when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pluggy

from qpipe.types import Introduction, Kind

hookspec = pluggy.HookspecMarker("qpipe")
hookimpl = pluggy.HookimplMarker("qpipe")


class Register(Protocol):
    """Hands a stage to qpipe; its name in recipes is the function's own unless given.

    For a measuring stage: `cached=False` where its result depends on the moment, as latency does (it is called in every
    run), `gives` the metrics it measures, for a recipe's `pareto` to be checked before anything runs (those of an
    option that takes metrics need no naming). For a compile stage: `demands`, what its runtime asks of quantization,
    as fields of Target, and `runtime`, what must be installed on a device for its builds to run there, as a device's
    capabilities call it.
    """

    def __call__(
        self,
        kind: Kind,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        cached: bool = True,
        gives: Sequence[str] = (),
        demands: Mapping[str, bool] | None = None,
        runtime: str = "",
    ) -> None: ...


class RegisterDevice(Protocol):
    """Hands a way to reach devices to qpipe: a function whose keyword-only parameters are its options in devices.yaml,
    called with the device's name, giving a Device.

    `enrol` is for devices that must be trusted before they are used (`qpipe devices add` and `rekey`).
    """

    def __call__(
        self, function: Callable[..., Any], *, name: str | None = None, enrol: Enrol | None = None
    ) -> None: ...


class Enrol(Protocol):
    """Asks a device what it is to be known by; nothing is trusted yet. DeviceError where it cannot be reached.

    A new device comes with the address that the user typed and the options that were given with it, its Introduction
    has all options; `folder` is that of devices.yaml. One of the inventory comes without address, with its options.
    """

    def __call__(
        self, name: str, address: str | None, options: Mapping[str, Any], folder: Path
    ) -> Introduction: ...


class RegisterPower(Protocol):
    """Hands a way to switch a device's current to qpipe: a function whose keyword-only parameters are its options in
    devices.yaml (beside the driver, as `power: {name: {options}}`), called with the device's name, giving a Power."""

    def __call__(self, function: Callable[..., Any], *, name: str | None = None) -> None: ...


@hookspec
def register_stages(register: Register) -> None:
    """Called once, when plugins are loaded: register every stage you bring."""


@hookspec
def register_devices(register: RegisterDevice) -> None:
    """Called once, when plugins are loaded: register every kind of device you bring."""


@hookspec
def register_power(register: RegisterPower) -> None:
    """Called once, when plugins are loaded: register every way you bring to switch a device off and on."""


@hookspec
def step_finished(step: str, state: str, seconds: float, coordinates: Mapping[str, str]) -> None:
    """Called in the main process as each step of a run ends; state is done, cached, failed or skipped."""
