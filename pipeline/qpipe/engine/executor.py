"""One step: what its stage needs is brought, the stage is called, what it gives is checked and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qpipe.engine import stage_results, step_log, worker
from qpipe.engine.plan import Plan, Step
from qpipe.errors import IncompleteError, QpipeError, StageError
from qpipe.recipe.stage_call import named
from qpipe.stages.options import needs
from qpipe.storage.cache import Cache
from qpipe.types import Deployed, Deployments, Device, Measurement, Progress, Stored

Keep = Callable[[Step, Sequence[Measurement]], None]


class Steps:
    """Carries out the steps of a plan, each when it is told to; usable from several threads."""

    def __init__(
        self, plan: Plan, devices: Mapping[str, Device], cache: Cache, workdir: Path, keep: Keep
    ) -> None:
        self.plan = plan
        self.devices = devices
        self.cache = cache
        self.workdir = workdir
        self.keep = keep
        self.stored: dict[str, Stored] = {}  # what deploy and upload steps gave, in this run

    def on_host(self, step: Step, progress: Progress, cancelled: Callable[[], bool]) -> None:
        """In a process of its own, its result to the cache."""
        with self.cache.put(step.kind, step.key) as out:
            job = worker.Job(
                step=step.id,
                kind=step.kind,
                stage=step.call.name if step.call else step.kind,
                options=named(step.call.options) if step.call else {},
                needs={p: self._given(self.plan.steps[need]) for p, need in step.needs.items()},
                target=step.target,
                platform=step.platform,
                out=out,
                log=self.scratch(step) / step_log.NAME,
                plugins=self.plan.recipe.plugins,
                scratch=self.cache.scratch(step.kind, step.key),
            )
            worker.run(job, progress, cancelled)

    def on_device(self, step: Step, progress: Progress) -> None:
        """With its device, in this thread."""
        if step.kind == "upload":
            samples = self._brought(step, "evaluation_samples", progress)
            self.stored[step.id] = self.devices[str(step.device)].store(samples.folder, progress)
            return
        result = stage_results.checked(step.kind, self._called(step, progress))
        if step.kind == "deploy":
            self.stored[step.id] = result
            return
        self.keep(step, result)
        if (
            step.cacheable
        ):  # only what the store took: a wrong number is not to come back from the cache
            with self.cache.put(step.kind, step.key) as out:
                stage_results.write(step.kind, result, out)

    def bring_again(self, device: str, progress: Progress) -> None:
        """All that was brought to a device in this run: after it died some may be gone. What is there is not sent."""
        for id_ in list(self.stored):
            if self.plan.steps[id_].device == device:
                self.on_device(self.plan.steps[id_], progress)

    def from_cache(self, step: Step) -> None:
        """Its result is there: of a measuring step the numbers are kept again."""
        if step.kind == "measure":
            self.keep(step, stage_results.read("measure", self._folder(step)))

    def scratch(self, step: Step) -> Path:
        """The folder that a step has to itself, with its log."""
        folder = step_log.folder_of(self.workdir, step.id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _called(self, step: Step, progress: Progress) -> Any:
        """What its stage gives. Of one that got through with a part of its work, that part is kept."""
        assert step.call is not None
        function = step.call.stage.function
        arguments = [self._brought(step, parameter, progress) for parameter in needs(function)]
        try:
            return function(*arguments, **step.call.resolved())
        except IncompleteError as error:
            self.keep(step, stage_results.checked(step.kind, error.measurements))
            raise
        except QpipeError:
            raise
        except Exception as error:
            step_log.append_traceback(self.scratch(step), error)
            reason = worker.broke(
                step.kind, step.call.name, self.scratch(step) / step_log.NAME, error
            )
            raise StageError(
                reason, failure="out of memory" if isinstance(error, MemoryError) else "bug"
            ) from error

    # ---- what a stage needs

    def _brought(self, step: Step, parameter: str, progress: Progress) -> Any:
        """What a device step's parameter gets."""
        if parameter == "progress":
            return progress
        if parameter == "device":
            return self.devices[str(step.device)]
        if parameter == "workdir":
            return self.scratch(step)
        if step.fan_in and parameter == "deployments":
            come, missing = self._arrived(step)
            return Deployments(
                [self._deployed(each) for each in come], [each.label for each in missing]
            )
        if step.fan_in and parameter == "device_samples":
            return {each.label: self.stored[self._upload(each)] for each in self._arrived(step)[0]}
        need = self.plan.steps[step.needs[parameter]]
        if need.kind == "deploy":
            return self._deployed(need)
        if need.kind == "upload":
            return self.stored[need.id]
        value = stage_results.read(need.kind, self._folder(need))
        return value[parameter.removesuffix("_samples")] if need.kind == "samples" else value

    def _arrived(self, step: Step) -> tuple[list[Step], list[Step]]:
        """The deploy steps that a fan-in measures: those that came, with their samples where it asks for them, and
        those that did not."""
        of = [self.plan.steps[need] for need in step.fan_in]
        sampled = any(each.kind == "upload" for each in of)
        deploys = [each for each in of if each.kind == "deploy"]
        come = [
            d
            for d in deploys
            if d.id in self.stored and (not sampled or self._upload(d) in self.stored)
        ]
        return come, [each for each in deploys if each not in come]

    def _upload(self, deploy: Step) -> str:
        """The step that brought the samples of a deployed build."""
        return self.plan.uploads[str(deploy.device), deploy.coordinates["model"]]

    def _deployed(self, step: Step) -> Deployed:
        build = stage_results.read("compile", self._folder(self.plan.steps[step.needs["build"]]))
        return Deployed(step.label, build, self.stored[step.id], step.is_float)

    def _given(self, step: Step) -> tuple[str, Path]:
        return step.kind, self._folder(step)

    def _folder(self, step: Step) -> Path:
        return self.cache.folder(step.kind, step.key) / "value"
