"""The conditions of one round: what is set and awaited before it, watched during it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .cpu_load import CpuLoad, usable_cores
from .energy_meter import IDLE_S, RoundEnergy
from .environment import disturbances, snapshot
from .failures import AgentError
from .round_settings import RoundSettings, add_settings, wait_until_cool

if TYPE_CHECKING:
    from qpipe.types import RoundEnvironment, RoundOptions

    from .messages import LoadAnswer, RoundAnswer, TimeAnswer

COOLING_S = 600.0  # for the device to cool down
SETTLING_S = 0.1  # until a meter no longer reports what was before
MOST_LOAD = 0.25  # share of the cores that others may take


class RoundConditions:
    """What the options of a round ask of the device; without options it is watched only."""

    def __init__(self, options: RoundOptions, settings: RoundSettings) -> None:
        self.options = options
        self.settings = settings
        self.root = Path(options.get("sysfs") or "/")
        self.batch = int(options.get("batch") or 1)
        self.environment: RoundEnvironment = {}
        self.invalid_reasons: list[str] = []
        self.energy: RoundEnergy | None = None
        self.rest_ns: list[int] = []

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Set governor and affinity, let the device cool down, and measure its idle power."""
        with self.settings.applied(self.options, self.root) as applied:
            add_settings(self.environment, applied)
            self._cool_down()
            energy_options = self.options.get("energy")
            rest_s = 0.0
            if energy_options:
                self.energy = RoundEnergy(energy_options, self.root)
                rest_s = energy_options.get("idle_s", IDLE_S)
            try:
                self._rest(float(self.options.get("rest_s", rest_s)))
                yield
            finally:
                if self.energy:
                    self.energy.meter.stop()

    def _cool_down(self) -> None:
        limit_c = self.options.get("cool_to_c")
        if limit_c is not None:
            most_s = float(self.options.get("cool_s", COOLING_S))
            waited = wait_until_cool(self.root, limit_c=float(limit_c), most_s=most_s)
            add_settings(self.environment, waited)

    def _rest(self, seconds: float) -> None:
        """Do nothing for `seconds`; it is the idle time of a meter, here or at the host."""
        if not seconds:
            return
        time.sleep(SETTLING_S)
        start = time.monotonic_ns()
        time.sleep(seconds)
        end = time.monotonic_ns()
        self.rest_ns = [start, end]
        if self.energy:
            self.energy.set_idle(start, end)

    def repeat_batch(
        self, feeds: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Return the inputs repeated along their batch axis.

        Raise AgentError where the build has no batch axis of this size.
        """
        if self.batch == 1:
            return dict(feeds)
        for declared in manifest.get("inputs", []):
            shape = declared["shape"]
            size = shape[0] if shape else "missing"
            if not shape or (isinstance(size, int) and size != self.batch):
                raise AgentError(
                    f"batch {self.batch}: the batch axis of {declared['name']} is {size} in this "
                    "build; compile it with onnxruntime: {dynamic_batch: true}, or leave batch out",
                    failure="configuration",
                )
        return {name: np.repeat(array, self.batch, axis=0) for name, array in feeds.items()}

    @contextlib.contextmanager
    def watched(self, group: int) -> Iterator[None]:
        """Record the device before and after; `group` is the runner's process group."""
        cores = usable_cores(group)  # of all its threads: a runtime may have bound them itself
        before = snapshot(self.root, group)
        load = CpuLoad(self.root, group, cores, time.monotonic())
        yield
        others = load.others(time.monotonic())
        after = snapshot(self.root, group)
        self.environment["before"] = before
        self.environment["after"] = after
        self._check_affinity(cores | usable_cores(group))
        self.invalid_reasons += disturbances(before, after)
        if others is not None:
            self._check_load(others, cores)

    def _check_affinity(self, cores: Set[int]) -> None:
        """Note where a runner bound itself to cores beside those of the affinity."""
        if "affinity" not in self.environment:
            return
        strays = sorted(cores - set(self.environment["affinity"]))
        if strays:
            noun = "cores" if len(strays) > 1 else "core"
            numbers = ", ".join(map(str, strays))
            reason = f"affinity: the runner bound itself to {noun} {numbers} as well"
            add_settings(self.environment, {"unlocked": reason})

    def _check_load(self, others: float, cores: Set[int]) -> None:
        """Record the share of the cores that others took; too large a share is invalid."""
        self.environment["others"] = round(others, 3)
        most = float(self.options.get("max_load", MOST_LOAD))
        if others > most:
            self.invalid_reasons.append(
                f"load: other processes took more than {100 * most:.0f} % of {_cores_text(cores)}"
            )

    def answer(self, loaded: LoadAnswer, timed: TimeAnswer) -> RoundAnswer:
        """Return the runner's answers with the conditions, and why the round is invalid, if so."""
        answer = cast("RoundAnswer", {**loaded, **timed})
        answer["batch"] = self.batch
        answer["invalid"] = "; ".join(self.invalid_reasons) or None
        answer["environment"] = self.environment
        if self.energy:
            answer["energy"] = self.energy.reading(timed, self.batch)
        if self.rest_ns:
            answer["rest_ns"] = self.rest_ns
        return answer


def check_supported(
    options: RoundOptions, option: str, *, answer: Mapping[str, Any], field: str, runner: str
) -> None:
    """Raise AgentError where an answer lacks the field by which a runner confirms an option."""
    if options.get(option) is not None and field not in answer:
        raise AgentError(
            f"runner {runner} does not support {option}; leave it out for this build",
            failure="configuration",
        )


def _cores_text(cores: Set[int]) -> str:
    if len(cores) == 1:
        return f"core {min(cores)}"
    return f"the {len(cores)} cores it may use"
