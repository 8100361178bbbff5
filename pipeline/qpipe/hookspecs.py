"""The plugin API: every hook, its arguments, and when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pluggy

from qpipe.types import Introduction, Kind, Resources

hookspec = pluggy.HookspecMarker("qpipe")
hookimpl = pluggy.HookimplMarker("qpipe")

ONE_THREAD = Resources()


class Register(Protocol):
    """Registers a stage; its name in recipes is the function's own unless `name` is given.

    For a measuring stage: `cached=False` where its result depends on the moment, as latency does
    (it is then called in every run); `gives` lists the metrics that it measures, so that a
    recipe's `pareto` is checked before anything runs (metrics of an option that takes metric
    stages need not be listed). For a compile stage: `demands`, what its runtime requires of
    quantization, as fields of Target; `runtime`, what must be installed on a device for its builds
    to run there, by its name in a device's capabilities. For a stage that needs modules which
    qpipe does not bring: `modules`, each with what installs it, so that `plan` can say so. For a
    stage on the host that takes much of a machine: `resources`, so that not too many run at once.
    """

    def __call__(  # noqa: PLR0913  (what a stage may be registered with)
        self,
        kind: Kind,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        cached: bool = True,
        gives: Sequence[str] = (),
        demands: Mapping[str, bool] | None = None,
        runtime: str = "",
        modules: Mapping[str, str] | None = None,
        resources: Resources = ONE_THREAD,
    ) -> None: ...


class RegisterDevice(Protocol):
    """Registers a device driver: a function that takes the device's name and returns a Device.

    Its keyword-only parameters are its options in devices.yaml. `enrol` is for devices that must
    be trusted before they are used (`qpipe devices add` and `rekey`).
    """

    def __call__(
        self, function: Callable[..., Any], *, name: str | None = None, enrol: Enrol | None = None
    ) -> None: ...


class Enrol(Protocol):
    """Asks a device for the identity by which to trust it; nothing is trusted yet.

    A new device comes with the address that the user typed and the options given with it; its
    Introduction holds all options. `folder` is that of devices.yaml. A device of the inventory
    comes without an address, with its options. Raise DeviceError where it cannot be reached.
    """

    def __call__(
        self, name: str, address: str | None, options: Mapping[str, Any], folder: Path
    ) -> Introduction: ...


class RegisterPower(Protocol):
    """Registers a power switch: a function that takes the device's name and returns a Power.

    Its keyword-only parameters are its options in devices.yaml, written beside the driver as
    `power: {name: {options}}`.
    """

    def __call__(self, function: Callable[..., Any], *, name: str | None = None) -> None: ...


@hookspec
def register_stages(register: Register) -> None:
    """Register every stage that the plugin has; called once, when plugins are loaded."""


@hookspec
def register_devices(register: RegisterDevice) -> None:
    """Register every device driver that the plugin has; called once, when plugins are loaded."""


@hookspec
def register_power(register: RegisterPower) -> None:
    """Register every power switch that the plugin has; called once, when plugins are loaded."""


@hookspec
def step_finished(step: str, state: str, seconds: float, coordinates: Mapping[str, str]) -> None:
    """Learn of the end of a step; called in the main process for each step of a run.

    state is done, cached, failed or skipped.
    """
