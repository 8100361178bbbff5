"""What a measuring stage scored with, kept with its numbers: the postprocess, to run elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

from qpipe.engine.portable_call import write_call, write_reason
from qpipe.recipe.recipe import scoring
from qpipe.recipe.stage_call import Call

SCORING = "scoring.json"
POSTPROCESS = "postprocess"  # the folder of the call, where there is a postprocess


def write_scoring(folder: Path, call: Call) -> None:
    """Write what a measuring stage scored with into the folder of its result, if it did."""
    stages = scoring(call)
    postprocess: Call | None = stages["postprocess"]
    metrics: list[Call] = stages["metric"]
    if postprocess is not None:
        _write_postprocess(folder / POSTPROCESS, postprocess)
    if postprocess is not None or metrics:
        first = max((_first_index(metric) for metric in metrics), default=0)
        (folder / SCORING).write_text(json.dumps({"first": first}) + "\n", encoding="utf-8")


def first_index(folder: Path) -> int | None:
    """Return the index of label 0 among the scores; None where nothing of it was kept."""
    path = folder / SCORING
    if not path.is_file():
        return None
    return int(json.loads(path.read_text(encoding="utf-8"))["first"])


def _write_postprocess(folder: Path, call: Call) -> None:
    if call.secret:
        write_reason(folder, f"its option '{min(call.secret)}' is secret")
    else:
        write_call(folder, call.stage.function, call.resolved())


def _first_index(metric: Call) -> int:
    function = metric.stage.function
    return int(function(**metric.resolved()).first)
