"""The text of a recipe, from facts and guesses, with comments for who edits it."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from qpipe.compare.decision import KEEP, KEEP_AGREEMENT
from qpipe.errors import RecipeError
from qpipe.start.eight_bits import FLOOR
from qpipe.start.feeding import Setting
from qpipe.start.likely_states import likely_states
from qpipe.start.network_facts import Network
from qpipe.start.network_family import Family
from qpipe.start.sample_sources import EVALUATION_COUNT, SampleSource

WIDTH = 112  # of comments
LONGEST_NAME = 60
FLOOR_SCHEME = "int8-floor"
SCHEMES = """\
schemes:                              # each a chain of transform and quantize stages
  float32: []                         # the reference
  # one scale for a weight: the simplest, and what every chip has
  int8-tensor: [{symmetric: {granularity: tensor}}]
  # a scale for each output channel: more exact where channels differ, at times slower
  int8-channel: [{symmetric: {granularity: channel}}]
  # channels evened out across layers, so that one scale serves them all; then biases corrected
  int8-equalized: [equalize, {symmetric: {granularity: tensor}}, correct_bias]
  # weights of 4 bits at sums of powers of two: half the file of int8, on the same integer kernels
  log4: [{logarithmic: {bits: 4, levels: apot}}, correct_bias]
  # the runtime's own quantizer, to compare with
  onnxruntime: [onnxruntime_static]
"""


@dataclass(frozen=True)
class Draft:
    """Everything that a recipe is written from."""

    file: Path  # of the recipe; paths in it are relative to its folder
    network: Network
    guess: Family
    source: SampleSource
    settings: Sequence[Setting]
    shapes: Mapping[str, Sequence[int | str]]  # of inputs with open dimensions
    values: Mapping[str, int] = field(default_factory=dict)  # of inputs that decide branches
    devices: Sequence[str] = ()
    absent: Sequence[str] = ()  # devices that are in no inventory
    metric: Mapping[str, Any] | str = ""  # against targets
    goal: str = ""  # the objective for accuracy
    postprocess: Mapping[str, Any] | None = None
    always: Sequence[str] = ()  # metrics in place of agreement and sqnr
    why_not: str = ""  # why nothing more is scored
    feeding_note: str = ""  # what scoring several feedings showed
    unbearable: str = ""  # what 8 bits cost the network, where it does not bear them
    is_numbering_shown: bool = False  # whether these scores show how classes are numbered

    @property
    def name(self) -> str:
        """Name of the model in the recipe: letters, digits, '.', '_' and '-'."""
        words = re.sub(r"[^A-Za-z0-9._-]+", "_", self.network.path.stem).strip("._-")
        return words[:LONGEST_NAME] or "model"

    @property
    def check(self) -> str:
        """What the user must check in how accuracy is scored."""
        if self.postprocess:
            return self.guess.check
        has_names = self.source.labels is not None and self.source.labels.names
        if self.metric and has_names and not self.is_numbering_shown:
            return (
                "classes are numbered in the order of their names, "
                "which must be that of the network"
            )
        return ""

    def simplified(self, reason: str) -> Draft | None:
        """Return the draft with less accuracy scored, for a reason; None if nothing is left out."""
        why_not = self.why_not or reason
        if self.postprocess or self.metric:
            return replace(self, postprocess=None, metric="", goal="agreement", why_not=why_not)
        if not self.always:
            return replace(self, always=("sqnr",), goal="sqnr_db", why_not=why_not)
        return None


def recipe_text(draft: Draft) -> str:
    """Return the recipe; raise RecipeError where a name or path cannot be written in one."""
    blocks = [
        _head(draft),
        _variables(draft),
        _samples(draft),
        _models(draft),
        "calibrate: histogram\n",
        SCHEMES,
        _floor_scheme(draft),
        "builds:\n  ort: onnxruntime\ndeploy: copy\n",
        _measure(draft),
        _devices(draft),
        _objectives(draft),
    ]
    return "".join(blocks)


def _head(draft: Draft) -> str:
    network = draft.network
    file = plain(draft.file.name)
    inputs = ", ".join(map(str, network.inputs))
    outputs = ", ".join(map(str, network.outputs))
    title = f"Which quantization of {network.path.name} to ship. Check all that says CHECK, then:"
    lines = [
        comment(title),
        f"#   qpipe samples {file}    what the network is fed\n",
        f"#   qpipe run {file}        quantize, deploy, measure, compare\n",
        comment(f"It takes {inputs}; gives {outputs}."),
        comment(f"It looks like {draft.guess.words}."),
        f"name: {yaml_value(draft.name)}\n",
    ]
    return "".join(lines)


def _variables(draft: Draft) -> str:
    counts = draft.source.counts
    if not counts:
        return ""
    lines = [f"  {name}: {count}\n" for name, count in counts.items()]
    note = f"# change them with --set {EVALUATION_COUNT}=100"
    return "".join([f"variables:                            {note}\n", *lines])


def _samples(draft: Draft) -> str:
    source = draft.source
    lines = ["samples:\n", f"  {source.kind}:\n"]
    notes = [*source.notes, *filter(None, [draft.feeding_note])]
    lines += [comment(note, 4) for note in notes]
    lines += [f"    {name}: {yaml_path(path, draft.file)}\n" for name, path in source.paths.items()]
    lines += [f'    {name}: "${{{name}}}"\n' for name in source.counts]
    for setting in draft.settings:
        if setting.check:
            lines.append(comment(f"CHECK: {setting.check}", 4))
        note = f"  # {plain(setting.note)}" if setting.note else ""
        lines.append(f"    {setting.name}: {yaml_value(setting.value)}{note}\n")
    return "".join(lines)


def _models(draft: Draft) -> str:
    lines = [
        "models:\n",
        f"  {yaml_value(draft.name)}:\n",
        "    onnx:\n",
        f"      path: {yaml_path(draft.network.path, draft.file)}\n",
    ]
    if draft.shapes:
        reason = "its file leaves these open; sizes with names differ by sample"
        shapes = {name: list(shape) for name, shape in draft.shapes.items()}
        lines += [comment(f"CHECK: {reason}", 6), f"      shapes: {yaml_value(shapes)}\n"]
    if draft.values:
        reason = "numbers that all samples feed; import decides the branches that they decide"
        values = yaml_value(dict(draft.values))
        lines += [comment(f"CHECK: {reason}", 6), f"      values: {values}\n"]
    states = likely_states(draft.network.inputs, draft.network.outputs)
    if states:
        reason = "with samples that are sequences of chunks, outputs can feed the states:"
        lines.append(comment(f"CHECK: {reason} states: {yaml_value(states)}", 6))
    return "".join(lines)


def _floor_scheme(draft: Draft) -> str:
    """Return a scheme that keeps layers float, where 8 bits are too few for all of them."""
    if not draft.unbearable:
        return ""
    chain = [{"mixed": {"bits": [8, 32], "sqnr": FLOOR}}, "compensate"]
    reason = f"8 bits are too few for all layers: {draft.unbearable}"
    lines = [
        comment(f"CHECK: {reason}; as many stay float here as it takes for {FLOOR} dB", 2),
        f"  {FLOOR_SCHEME}: {yaml_value(chain)}\n",
    ]
    return "".join(lines)


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
    accuracy = yaml_value({"accuracy": options}) if options else "accuracy"
    lines += [f"  - {accuracy}\n", "  - memory\n", "  - size\n", "  - placement\n"]
    return "".join(lines)


def _devices(draft: Draft) -> str:
    names = list(draft.devices) or ["local"]
    lines = [
        comment(f"in devices.yaml beside this file:  {inventory_entry(name)}")
        for name in draft.absent
    ]
    if not draft.devices:
        note = "a board goes into devices.yaml and is named here, or by --device"
        lines.append(comment(f"local is this machine; {note}"))
    lines.append(f"devices: {yaml_value(names)}\n")
    return "".join(lines)


def inventory_entry(name: str) -> str:
    """Return a line of devices.yaml for a board."""
    return f"{name}: {{ssh: {{host: ADDRESS, user: NAME, python: venv/bin/python}}}}"


def _objectives(draft: Draft) -> str:
    objectives = {"latency_ms": "min", draft.goal: "max", "size_mb": "min", "memory_mb": "min"}
    lines = [f"pareto: {yaml_value(objectives)}\n", *_keep(draft)]
    if draft.metric:
        lines += [
            comment("what float must score on the samples, as published or as in training; a run"),
            comment("with wrong preprocessing then stops before anything is quantized"),
            f"# expect: {{{draft.goal}: {{value: 0.75, tolerance: 0.02}}}}\n",
        ]
    return "".join(lines)


def _keep(draft: Draft) -> list[str]:
    """Return the lines of what a scheme to ship may lose; none where the goal has no default."""
    if draft.goal == "sqnr_db":
        return []
    keep = KEEP if draft.metric else KEEP_AGREEMENT
    words = (
        f"a scheme to ship must be shown to lose at most so many points of {draft.goal} against "
        f"float: {keep:g} by default"
    )
    return [comment(words), f"# keep: {keep:g}\n"]


# ---- YAML


def yaml_value(value: Any) -> str:
    """Return a value as one line of YAML; raise RecipeError where it would be a variable there."""
    line = yaml.safe_dump(
        value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    line = line.removesuffix("\n").removesuffix("\n...")
    if len(line.splitlines()) > 1:
        line = json.dumps(value)  # JSON is YAML too, and escapes line ends
    if "${" in line:
        raise RecipeError(f"{plain(line)}: '${{' begins a variable in a recipe; rename it")
    return line


def yaml_path(path: Path, recipe: Path) -> str:
    """Return a path relative to the recipe's folder, as YAML."""
    return yaml_value(os.path.relpath(path.absolute(), recipe.parent.resolve()))


def comment(words: str, indent: int = 0) -> str:
    """Return words as wrapped comment lines."""
    prefix = " " * indent + "# "
    lines = textwrap.wrap(
        plain(words), WIDTH - indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"{prefix}{line}\n" for line in lines)


def plain(words: str) -> str:
    """Return foreign text without characters that could end a comment's line."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)
