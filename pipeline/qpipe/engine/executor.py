"""One step: what its stage needs is read, the stage is called, its result is returned or kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpipe.engine import stage_results, step_log
from qpipe.engine.cluster import Cluster
from qpipe.engine.events import Notify
from qpipe.engine.host_step import ResultFolder, StepInputs
from qpipe.engine.plan import Plan, Step
from qpipe.engine.scoring_record import write_scoring
from qpipe.engine.worker import StepRequest, describe_stage_error, run_in_worker
from qpipe.errors import Failure, IncompleteError, QpipeError, StageError
from qpipe.recipe.stage_call import calls_by_name
from qpipe.stages.options import needs
from qpipe.storage.cache import Cache
from qpipe.types import Deployed, Deployments, Device, Measurement, Progress, Stored


@dataclass(frozen=True)
class _FanIn:
    """The deploy steps that a fan-in measures: those whose build it can use, and the others."""

    present: Sequence[Step]
    missing: Sequence[Step]


class StepExecutor:
    """Carries out single steps of a plan, in the thread of the caller; several may do so."""

    def __init__(
        self,
        plan: Plan,
        devices: Mapping[str, Device],
        cache: Cache,
        workdir: Path,
        cluster: Cluster | None = None,
    ) -> None:
        self.plan = plan
        self.devices = devices
        self.cache = cache
        self.workdir = workdir
        self.cluster = cluster
        self.stored: dict[str, Stored] = {}  # deploy or upload step -> what it stored in this run

    # ---- steps on the host

    def run_on_host(self, step: Step, progress: Progress, is_cancelled: Callable[[], bool]) -> None:
        """Carry out a host step in a process of its own; its result goes to the cache."""
        results = {}
        for parameter, need in step.needs.items():
            needed = self.plan.steps[need]
            results[parameter] = ResultFolder(needed.kind, needed.result_folder(self.cache))
        with self.cache.put(step.kind, step.key) as out:
            request = StepRequest(
                step=step.id,
                kind=step.kind,
                stage=step.stage_name,
                options=calls_by_name(step.call.options) if step.call else {},
                inputs=StepInputs(results, step.target, step.platform),
                out=out,
                log=self.step_folder(step) / step_log.NAME,
                plugins=self.plan.recipe.plugins,
                scratch=self.cache.scratch(step.kind, step.key),
            )
            run_in_worker(request, progress, is_cancelled)

    def run_on_cluster(
        self, step: Step, progress: Progress, is_cancelled: Callable[[], bool], notice: Notify
    ) -> None:
        """Have a host step carried out by a cluster, whose workers see the same results.

        Raise LostError where this machine has to carry it out.
        """
        assert self.cluster is not None
        log = self.step_folder(step) / step_log.NAME
        self.cluster.carry_out(step, log, progress, is_cancelled, notice)

    # ---- steps on a device

    def send(self, step: Step, progress: Progress) -> None:
        """Carry out an upload or a deploy step."""
        if step.kind == "upload":
            samples = self._argument(step, "evaluation_samples", progress)
            device = self.devices[str(step.device)]
            self.stored[step.id] = device.store(samples.folder, progress)
        else:
            result = self._call_stage(step, progress)
            self.stored[step.id] = stage_results.checked_result(step.kind, result)

    def send_again(self, device: str, progress: Progress) -> None:
        """Repeat all that was sent to a device in this run: after it died some may be lost.

        The device takes only what it lacks.
        """
        for step_id in list(self.stored):
            step = self.plan.steps[step_id]
            if step.device == device:
                self.send(step, progress)

    def measure(self, step: Step, progress: Progress) -> list[Measurement]:
        """Carry out a measuring step and return its numbers.

        Raise IncompleteError with the numbers there are where the stage measured a part.
        """
        try:
            result = self._call_stage(step, progress)
        except IncompleteError as error:
            numbers = stage_results.checked_measurements(step.kind, error.measurements)
            raise IncompleteError(str(error), numbers, failure=error.failure) from error
        return stage_results.checked_measurements(step.kind, result)

    def read_measurements(self, step: Step) -> list[Measurement]:
        """Read the numbers of a measuring step from the cache."""
        measurements: list[Measurement] = stage_results.read(
            step.kind, step.result_folder(self.cache)
        )
        return measurements

    def write_measurements(self, step: Step, measurements: Sequence[Measurement]) -> None:
        """Write the numbers of a measuring step to the cache, where they hold for later runs."""
        if step.cacheable:
            with self.cache.put(step.kind, step.key) as out:
                stage_results.write(step.kind, measurements, out)
                if step.call is not None:
                    write_scoring(out, step.call)

    def step_folder(self, step: Step) -> Path:
        """Return the folder of a step, made where it is not there; its log lies in it."""
        folder = step_log.step_folder(self.workdir, step.id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _call_stage(self, step: Step, progress: Progress) -> Any:
        assert step.call is not None
        function = step.call.stage.function
        arguments = [self._argument(step, name, progress) for name in needs(function)]
        try:
            return function(*arguments, **step.call.resolved())
        except QpipeError:
            raise
        except Exception as error:
            folder = self.step_folder(step)
            step_log.append_traceback(folder, error)
            log = folder / step_log.NAME
            reason = describe_stage_error(error, kind=step.kind, stage=step.stage_name, log=log)
            failure: Failure = "out of memory" if isinstance(error, MemoryError) else "bug"
            raise StageError(reason, failure=failure) from error

    # ---- the arguments of a stage on a device

    def _argument(self, step: Step, parameter: str, progress: Progress) -> Any:
        if parameter == "progress":
            return progress
        if parameter == "device":
            return self.devices[str(step.device)]
        if parameter == "workdir":
            return self.step_folder(step)
        if step.fan_in and parameter == "deployments":
            return self._deployments(step)
        if step.fan_in and parameter == "device_samples":
            return self._samples_by_build(step)
        needed = self.plan.steps[step.needs[parameter]]
        if needed.kind == "deploy":
            return self._deployed(needed)
        if needed.kind == "upload":
            return self.stored[needed.id]
        return stage_results.read_part(needed.kind, parameter, needed.result_folder(self.cache))

    def _deployments(self, step: Step) -> Deployments:
        fan_in = self._split_fan_in(step)
        present = [self._deployed(deploy) for deploy in fan_in.present]
        return Deployments(present, [deploy.label for deploy in fan_in.missing])

    def _samples_by_build(self, step: Step) -> dict[str, Stored]:
        present = self._split_fan_in(step).present
        return {deploy.label: self.stored[self._upload_of(deploy)] for deploy in present}

    def _split_fan_in(self, step: Step) -> _FanIn:
        """Split the deploy steps of a fan-in; where it asks for samples, they must be there too."""
        steps = [self.plan.steps[need] for need in step.fan_in]
        needs_samples = any(member.kind == "upload" for member in steps)
        present: list[Step] = []
        missing: list[Step] = []
        for member in steps:
            if member.kind != "deploy":
                continue
            is_present = member.id in self.stored
            if needs_samples and self._upload_of(member) not in self.stored:
                is_present = False
            if is_present:
                present.append(member)
            else:
                missing.append(member)
        return _FanIn(present, missing)

    def _upload_of(self, deploy: Step) -> str:
        """Return the step that sent the samples of a deployed build."""
        return self.plan.uploads[str(deploy.device), deploy.coordinates["model"]]

    def _deployed(self, deploy: Step) -> Deployed:
        compiled = self.plan.steps[deploy.needs["build"]]
        build = stage_results.read(compiled.kind, compiled.result_folder(self.cache))
        return Deployed(deploy.label, build, self.stored[deploy.id], deploy.is_float)
