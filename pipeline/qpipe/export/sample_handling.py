"""How samples became inputs and outputs became predictions, handed over so that it runs alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from qpipe.engine.portable_call import CODE, FILES, PortableCall, read_call

PACKAGE = '"""A package of code that qpipe handed over."""\n'


class NamedStage(TypedDict):
    """A stage as a recipe names it, with all its options; of paths the names."""

    kind: str
    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class SampleHandling:
    """The stages around the network as they were measured, and the folders of their functions.

    A folder is None where the function is not kept.
    """

    samples: NamedStage
    decoder: Path | None = None
    postprocess: NamedStage | None = None  # None where outputs are the predictions
    postprocess_function: Path | None = None
    metrics: Sequence[NamedStage] = ()
    # the index of label 0 among the scores of classes; None where it is not known
    first: int | None = None


class PreprocessingFacts(TypedDict):
    """How the evaluation samples came from files, and how they were fed."""

    stage: NamedStage
    decode: PortableCall  # from a file to the inputs of a sample
    inputs: dict[str, dict[str, Any]]  # from an input of a sample to that of the network


class PostprocessingFacts(TypedDict):
    """How outputs became predictions, and what scored these."""

    stage: NamedStage | None  # None where outputs are the predictions
    call: PortableCall | None  # from outputs to a prediction
    metrics: list[NamedStage]
    first: int | None  # the index of label 0 among the scores of classes, where it is known


def preprocessing_facts(
    handling: SampleHandling, folder: Path, inputs: dict[str, dict[str, Any]]
) -> PreprocessingFacts:
    """Copy the code that decodes files into the bundle's folder, and return what it says of it."""
    decode = _hand_over(handling.decoder, "decode", folder)
    return {"stage": handling.samples, "decode": decode, "inputs": inputs}


def postprocessing_facts(handling: SampleHandling, folder: Path) -> PostprocessingFacts:
    """Copy the code of the postprocess into the bundle's folder, and return what it says of it."""
    call: PortableCall | None = None
    if handling.postprocess is not None:
        call = _hand_over(handling.postprocess_function, "postprocess", folder)
    return {
        "stage": handling.postprocess,
        "call": call,
        "metrics": list(handling.metrics),
        "first": handling.first,
    }


def _hand_over(
    source: Path | None, role: Literal["decode", "postprocess"], folder: Path
) -> PortableCall:
    """Copy what a call needs into the bundle's folder; return the call with its files there."""
    if source is None or not source.is_dir():
        return {"reason": "its code was not kept; run the recipe again"}
    call = read_call(source)
    if (source / CODE).is_dir():
        _add_code(source / CODE, folder / CODE)
    for option, name in call.get("files", {}).items():
        place = f"{FILES}/{role}/{option}/{Path(name).name}"
        _copy(source / name, folder / place)
        call["files"][option] = place
    return call


def _add_code(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*.py")):
        _copy(path, target / path.relative_to(source))
    for path in sorted(target.rglob("*.py")):
        for package in path.relative_to(target).parents[:-1]:
            init = target / package / "__init__.py"
            if not init.exists():
                init.write_text(PACKAGE, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
