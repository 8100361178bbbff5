"""What was seen and guessed -> the text of a recipe, with comments for who edits it."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from qpipe.errors import RecipeError
from qpipe.start.feeding import Setting
from qpipe.start.network_facts import Network
from qpipe.start.network_family import Family
from qpipe.start.sample_sources import Source

WIDTH = 112
SCHEMES = """\
schemes:                              # each a chain of transform and quantize stages; all run, and are compared
  float32: []                         # the reference
  # one scale a weight: the simplest, and what every chip has
  int8-tensor: [{symmetric: {granularity: tensor}}]
  # a scale for each output channel: more exact where channels differ, at times slower
  int8-channel: [{symmetric: {granularity: channel}}]
  # channels evened out across layers first, so that one scale serves them all; then biases corrected
  int8-equalized: [equalize, {symmetric: {granularity: tensor}}, correct_bias]
  # weights of 4 bits at powers of two and their sums: half the file of int8, on the same integer kernels
  log4: [{logarithmic: {bits: 4, levels: additive}}, correct_bias]
  # the runtime's own quantizer, the rival
  onnxruntime: [onnxruntime_static]
"""


@dataclass(frozen=True)
class Draft:
    """All that a recipe is written from."""

    file: Path  # where it will lie: paths in it are relative to that
    network: Network
    guess: Family
    source: Source
    settings: Sequence[Setting]
    shapes: Mapping[str, Sequence[int]]  # of inputs that are open
    devices: Sequence[str] = ()
    absent: Sequence[str] = ()  # devices that no inventory has
    metric: Mapping[str, Any] | str = ""  # against targets
    goal: str = ""  # the objective that says how right it is
    postprocess: Mapping[str, Any] | None = None
    always: Sequence[str] = ()  # in place of agreement and sqnr
    why_not: str = ""  # why nothing more is scored

    @property
    def name(self) -> str:
        """The model's, fit for a recipe: letters, digits, '.', '_' and '-'."""
        words = re.sub(r"[^A-Za-z0-9._-]+", "_", self.network.path.stem).strip("._-")
        return words[:60] or "model"

    @property
    def check(self) -> str:
        """What to look at in how accuracy is scored."""
        if self.postprocess:
            return self.guess.check
        by_name = self.metric and self.source.labels and self.source.labels.names
        return (
            "classes are numbered in the order of their names, which must be that of the network"
            if by_name
            else ""
        )

    def plainer(self, reason: str) -> Draft | None:
        """The same with less of accuracy, for one reason; None where nothing is left to take away."""
        if self.postprocess or self.metric:
            return replace(
                self, postprocess=None, metric="", goal="agreement", why_not=self.why_not or reason
            )
        if not self.always:
            return replace(self, always=("sqnr",), goal="sqnr_db", why_not=self.why_not or reason)
        return None


def text(draft: Draft) -> str:
    """The recipe; RecipeError where a name or path cannot stand in one."""
    blocks = [
        _head(draft),
        _variables(draft),
        _samples(draft),
        _models(draft),
        "calibrate: histogram\n",
        SCHEMES,
        "builds:\n  ort: onnxruntime\ndeploy: copy\n",
        _measure(draft),
        _devices(draft),
        _objectives(draft),
    ]
    return "".join(blocks)


def _head(draft: Draft) -> str:
    network = draft.network
    file = draft.file.name
    takes, gives = (", ".join(map(str, values)) for values in (network.inputs, network.outputs))
    return (
        comment(
            f"Which quantization of {network.path.name} to ship. Look at all that says CHECK, then:"
        )
        + f"#   qpipe samples {plain(file)}    what the network really sees\n"
        + f"#   qpipe run {plain(file)}        quantize, deploy, measure, compare\n"
        + comment(f"It takes {takes}; gives {gives}.")
        + comment(f"It looks like {draft.guess.words}.")
        + f"name: {value_of(draft.name)}\n"
    )


def _variables(draft: Draft) -> str:
    if not draft.source.counts:
        return ""
    lines = "".join(f"  {name}: {count}\n" for name, count in draft.source.counts.items())
    return f"variables:                            # change them with --set evaluate=100\n{lines}"


def _samples(draft: Draft) -> str:
    source = draft.source
    lines = [*(comment(note, 4) for note in source.notes)]
    lines += [f"    {name}: {path_of(path, draft.file)}\n" for name, path in source.paths.items()]
    lines += [f'    {name}: "${{{name}}}"\n' for name in source.counts]
    for setting in draft.settings:
        if setting.check:
            lines.append(comment(f"CHECK: {setting.check}", 4))
        note = f"  # {plain(setting.note)}" if setting.note else ""
        lines.append(f"    {setting.name}: {value_of(setting.value)}{note}\n")
    return f"samples:\n  {source.kind}:\n{''.join(lines)}"


def _models(draft: Draft) -> str:
    lines = f"models:\n  {value_of(draft.name)}:\n    onnx:\n      path: {path_of(draft.network.path, draft.file)}\n"
    if not draft.shapes:
        return lines
    lines += comment(
        "CHECK: its file leaves these open; qpipe measures one sample of one shape at a time", 6
    )
    shapes = {name: list(shape) for name, shape in draft.shapes.items()}
    return f"{lines}      shapes: {value_of(shapes)}\n"


def _measure(draft: Draft) -> str:
    options: dict[str, Any] = {}
    if draft.postprocess:
        options["postprocess"] = dict(draft.postprocess)
    if draft.metric:
        options["metric"] = [draft.metric]
    if draft.always:
        options["always"] = list(draft.always)
    lines = ["measure:\n", "  - latency\n"]
    if draft.why_not:
        lines.append(comment(f"CHECK: no more than this is scored: {draft.why_not}", 2))
    elif draft.check:
        lines.append(comment(f"CHECK: {draft.check}", 2))
    lines.append(f"  - {value_of({'accuracy': options})}\n" if options else "  - accuracy\n")
    return "".join([*lines, "  - memory\n", "  - size\n", "  - placement\n"])


def _devices(draft: Draft) -> str:
    names = list(draft.devices) or ["local"]
    lines = [comment(f"in devices.yaml beside this file:  {stub(name)}") for name in draft.absent]
    if not draft.devices:
        lines.append(
            comment(
                "local is this machine; a board goes into devices.yaml and is named here, or by --device"
            )
        )
    return "".join([*lines, f"devices: {value_of(names)}\n"])


def stub(name: str) -> str:
    """A line of devices.yaml for a board."""
    return f"{name}: {{ssh: {{host: ADDRESS, user: NAME, python: venv/bin/python}}}}"


def _objectives(draft: Draft) -> str:
    lines = f"pareto: {value_of({'latency_ms': 'min', draft.goal: 'max', 'size_mb': 'min'})}\n"
    example = f"expect: {{{draft.goal}: {{value: 0.75, tolerance: 0.02}}}}"
    if not draft.metric:
        return lines
    return lines + (
        comment(
            "what float must score on the samples, as published or as in training: wrong preprocessing then stops"
        )
        + comment("the run before anything is quantized")
        + f"# {example}\n"
    )


# ---- YAML


def value_of(value: Any) -> str:
    """A value in one line of YAML; RecipeError where it would mean something else there."""
    written = yaml.safe_dump(
        value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    written = written.removesuffix("\n").removesuffix("\n...")
    if len(written.splitlines()) > 1:
        written = json.dumps(value)  # which is YAML too, with line ends as letters
    if "${" in written:
        raise RecipeError(f"{plain(written)}: '${{' begins a variable in a recipe; rename it")
    return written


def path_of(path: Path, file: Path) -> str:
    """A path as a recipe names it: relative to itself."""
    return value_of(os.path.relpath(path.absolute(), file.parent.resolve()))


def comment(words: str, indent: int = 0) -> str:
    """Comment lines, wrapped."""
    before = " " * indent + "# "
    lines = textwrap.wrap(
        plain(words), WIDTH - indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"{before}{line}\n" for line in lines)


def plain(words: str) -> str:
    """What others wrote, with nothing in it that could end a comment's line."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)
