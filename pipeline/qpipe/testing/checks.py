"""One requirement of the contract of a kind, and what came of checking a plugin against it."""

from __future__ import annotations

import tempfile
import unittest
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qpipe.engine.request import SMOKE_OPTIONS
from qpipe.errors import QpipeError
from qpipe.recipe.stage_call import Call, CallReader
from qpipe.recipe.yaml_document import Document
from qpipe.stages.options import options
from qpipe.stages.registry import Registry, Stage
from qpipe.types import Array

State = Literal["ok", "failed", "skipped"]


class NonconformityError(AssertionError):
    """A plugin does not do what the contract of its kind requires; the text says what."""


class NotApplicableError(unittest.SkipTest):
    """A check says nothing about this plugin, here; the text says why. pytest skips the test."""


@dataclass(frozen=True)
class Subject:
    """A stage or a driver under test, and what it is tried with."""

    stage: Stage
    plugins: Registry
    # as a recipe or devices.yaml would have them
    options: Mapping[str, Any] = field(default_factory=dict)
    # what a metric is tried on: predictions of samples, each with its target
    examples: tuple[tuple[Any, Any], ...] = ()
    # what a postprocess is tried on: the outputs of a network for one sample
    outputs: Mapping[str, Array] | None = None

    @property
    def label(self) -> str:
        """The kind and the name of the stage."""
        return f"{self.stage.kind} {self.stage.name}"

    def call(self, **more_options: Any) -> Call:
        """Return the stage with its options, and more, checked as those of a recipe are.

        What takes long is short, as in a smoke run. Raise NotApplicableError where a required
        option is missing.
        """
        declared = options(self.stage.function)
        written = {name: value for name, value in SMOKE_OPTIONS.items() if name in declared}
        written |= {**self.options, **more_options}
        required = [option.name for option in declared.values() if option.required]
        missing = [name for name in required if name not in written]
        if missing:
            options_to_set = " ".join(f"--set {name}=VALUE" for name in missing)
            raise NotApplicableError(f"it requires options: give {options_to_set}")
        reader = CallReader(Document(Path(self.label), "", {}), self.plugins)
        return Call(self.stage, reader.options(self.stage, written, ()))


Requirement = Callable[[Subject, Path], str]


@dataclass(frozen=True)
class CheckResult:
    """What came of one check."""

    kind: str
    stage: str
    check: str
    state: State
    detail: str


@dataclass(frozen=True)
class Check:
    """A requirement to hold a subject to. Called, it raises where the subject does not meet it.

    The requirement is a function of the subject and an empty folder; it returns what it has seen,
    in a few words.
    """

    requirement: Requirement
    subject: Subject

    def __str__(self) -> str:
        return self.requirement.__name__.replace("_", " ")

    def __call__(self) -> str:
        """Return what was seen.

        Raise NonconformityError where the requirement is not met, NotApplicableError where it says
        nothing about the subject, and whatever the subject's own code raises.
        """
        with tempfile.TemporaryDirectory(prefix="qpipe-") as folder:
            return self.requirement(self.subject, Path(folder))

    def result(self) -> CheckResult:
        """Return how the check ended; errors of the subject's own code are failures, in a line."""
        try:
            return self._ended("ok", self())
        except NotApplicableError as reason:
            return self._ended("skipped", str(reason))
        except (NonconformityError, QpipeError) as error:
            return self._ended("failed", str(error))
        except Exception as error:  # noqa: BLE001  (foreign code: whatever it raises is its failure)
            return self._ended("failed", f"{type(error).__name__}: {error}".removesuffix(": "))

    def _ended(self, state: State, detail: str) -> CheckResult:
        stage = self.subject.stage
        return CheckResult(stage.kind, stage.name, str(self), state, " ".join(detail.split()))


def require(condition: bool, problem: str) -> None:
    """Raise NonconformityError, which says what is wrong, unless the condition holds."""
    if not condition:
        raise NonconformityError(problem)
