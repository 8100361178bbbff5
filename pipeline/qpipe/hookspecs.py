"""The whole plugin API: every hook, what it is handed, and when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pluggy

from qpipe.types import Kind

hookspec = pluggy.HookspecMarker("qpipe")
hookimpl = pluggy.HookimplMarker("qpipe")


class Register(Protocol):
    """Hands a stage to qpipe; its name in recipes is the function's own unless given. `cached=False` is for a measuring
    stage whose result depends on the moment, as latency does: it is called in every run."""

    def __call__(
        self, kind: Kind, function: Callable[..., Any], *, name: str | None = None, cached: bool = True
    ) -> None: ...


class RegisterDevice(Protocol):
    """Hands a way to reach devices to qpipe: a function whose keyword-only parameters are its options in devices.yaml,
    called with the device's name, giving a Device."""

    def __call__(self, function: Callable[..., Any], *, name: str | None = None) -> None: ...


@hookspec
def register_stages(register: Register) -> None:
    """Called once, when plugins are loaded: register every stage you bring."""


@hookspec
def register_devices(register: RegisterDevice) -> None:
    """Called once, when plugins are loaded: register every kind of device you bring."""


@hookspec
def step_finished(step: str, state: str, seconds: float, coordinates: Mapping[str, str]) -> None:
    """Called in the main process as each step of a run ends; state is done, cached, failed or skipped."""
