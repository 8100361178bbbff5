"""The conditions of one round: what is set and waited for before it, watched during it, and told after it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import environment
from .energy_meter import IDLE_S, RoundEnergy
from .failures import AgentError
from .round_settings import Settings, note, wait_until_cool

WAIT_S = 600.0  # for the device to cool down
MOMENT_S = 0.1  # until a meter tells no more of what was before
OTHERS = 0.25  # of the cores, that others may take


class Conditions:
    """What a request's `options` ask of the device around a round. Without options: it is watched, nothing is set."""

    def __init__(self, options: Mapping[str, Any], settings: Settings) -> None:
        self.options = options
        self.settings = settings
        self.root = Path(options.get("sysfs") or "/")
        self.batch = int(options.get("batch") or 1)
        self.told_so_far: dict[str, Any] = {}
        self.reasons: list[str] = []
        self.energy: RoundEnergy | None = None
        self.rest_ns: list[int] = []

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Governor and affinity are set, the device is cool enough, and what it takes when idle is known."""
        with (
            self.settings.applied(self.options, self.root) as applied,
            contextlib.ExitStack() as stack,
        ):
            note(self.told_so_far, applied)
            if self.options.get("cool_to_c") is not None:
                most = float(self.options.get("cool_s", WAIT_S))
                note(
                    self.told_so_far,
                    wait_until_cool(self.root, float(self.options["cool_to_c"]), most),
                )
            asked = self.options.get("energy")
            if asked:
                self.energy = RoundEnergy(asked, self.root)
                stack.callback(self.energy.meter.stop)
            self._rest(
                float(self.options.get("rest_s", asked.get("idle_s", IDLE_S) if asked else 0))
            )
            yield

    def _rest(self, seconds: float) -> None:
        """Do nothing for so long; a meter here takes it for idle, one at the host is told when that was."""
        if seconds:
            time.sleep(MOMENT_S)
            start = time.monotonic_ns()
            time.sleep(seconds)
            self.rest_ns = [start, time.monotonic_ns()]
            if self.energy:
                self.energy.rested(*self.rest_ns)

    def batched(
        self, feeds: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
    ) -> Dict[str, np.ndarray]:  # noqa: UP006
        """The inputs repeated along their batch axis; AgentError where the build has none that varies."""
        if self.batch == 1:
            return dict(feeds)
        for name, shape in ((each["name"], each["shape"]) for each in manifest.get("inputs", [])):
            if not shape or (isinstance(shape[0], int) and shape[0] != self.batch):
                size = shape[0] if shape else "no axis"
                what = f"batch {self.batch}: the batch axis of {name} is {size} in this build"
                fix = "compile it with onnxruntime: {free_batch: true}, or leave batch out"
                raise AgentError(f"{what}; {fix}", "configuration")
        return {name: np.repeat(array, self.batch, axis=0) for name, array in feeds.items()}

    @contextlib.contextmanager
    def watched(self, group: int) -> Iterator[None]:
        """Look at the device before and after; `group` is the runner's process group."""
        cores = environment.cores(group)  # of all its threads: a runtime may have bound them itself
        before = environment.snapshot(self.root, group)
        load = environment.Load(self.root, group, cores, time.monotonic())
        yield
        others = load.others(time.monotonic())
        after = environment.snapshot(self.root, group)
        self.told_so_far.update(before=before, after=after)
        strays = sorted(
            (cores | environment.cores(group)) - set(self.told_so_far.get("affinity", cores))
        )
        if "affinity" in self.told_so_far and strays:
            shown = f"core{'s' * (len(strays) > 1)} {', '.join(map(str, strays))}"
            note(
                self.told_so_far,
                {"unlocked": f"affinity: the runner bound itself to {shown} as well"},
            )
        self.reasons += environment.disturbances(before, after)
        if others is not None:
            self.told_so_far["others"] = round(others, 3)
            most = float(self.options.get("max_load", OTHERS))
            if others > most:
                self.reasons.append(
                    f"load: other processes took more than {100 * most:.0f} % of {_shown(cores)}"
                )

    def told(self, timed: Mapping[str, Any]) -> Dict[str, Any]:  # noqa: UP006
        """What the host gets: what the runner said, whether the round is to be believed, and what was seen."""
        energy = {"energy": self.energy.told(timed, self.batch)} if self.energy else {}
        reason = "; ".join(self.reasons) or None
        rest = {"rest_ns": self.rest_ns} if self.rest_ns else {}
        return {
            **timed,
            **energy,
            **rest,
            "batch": self.batch,
            "invalid": reason,
            "environment": self.told_so_far,
        }


def check_followed(
    options: Mapping[str, Any], option: str, answer: Mapping[str, Any], field: str, runner: str
) -> None:
    """AgentError where an answer lacks the field that only a runner says which knows an option."""
    if options.get(option) is not None and field not in answer:
        raise AgentError(
            f"runner {runner} does not know {option}; leave it out for this build", "configuration"
        )


def _shown(cores: set[int]) -> str:
    if len(cores) == 1:
        return f"core {min(cores)}"
    return f"the {len(cores)} cores it may use"
