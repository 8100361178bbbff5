"""Error rate of sequences: edits over words or characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

import qpipe

UNITS = {"word": "wer", "character": "cer"}


def wer(*, unit: Literal["word", "character"] = "word") -> qpipe.Metric:
    """Word error rate: insertions, deletions and replacements over the words of the target; of characters: metric cer.

    A target is a text or a list of tokens; a prediction has one as `text`, or its first output is whole numbers. Words
    are what white space separates; case and punctuation count. The rate is of all samples together and can exceed 1.
    """

    def contribution(prediction: Any, target: Any) -> tuple[int, int]:
        outputs = prediction if isinstance(prediction, Mapping) else {"text": prediction}
        answer = outputs["text"] if "text" in outputs else next(iter(outputs.values()))
        wanted = _tokens(target, unit, "target")
        return edits(_tokens(answer, unit, "prediction"), wanted), len(wanted)

    return qpipe.Metric(UNITS[unit], contribution, _rate, better="min")


def _tokens(given: Any, unit: str, what: str) -> list[Any]:
    if isinstance(given, str):
        return given.split() if unit == "word" else list(given)
    if isinstance(given, np.ndarray) and given.dtype.kind in "iuU":
        given = given.ravel().tolist()
    if isinstance(given, list | tuple):
        return list(given)
    right = "it is a text, or a list of tokens (set postprocess: ctc_greedy, say)"
    raise qpipe.StageError(f"metric wer: the {what} is {type(given).__name__}; {right}")


def edits(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Levenshtein's distance: the least insertions, deletions and replacements from one to the other."""
    codes = {token: code for code, token in enumerate({*one, *other})}
    columns = np.arange(len(other) + 1)
    wanted = np.array([codes[token] for token in other], np.int64)
    row = columns
    for token in one:
        row = np.concatenate(
            [row[:1] + 1, np.minimum(row[1:] + 1, row[:-1] + (wanted != codes[token]))]
        )
        row = np.minimum.accumulate(row - columns) + columns  # insertions, from left to right
    return int(row[-1])


def _rate(contributions: Sequence[tuple[int, int]]) -> float:
    wrong, length = np.sum(np.asarray(contributions), axis=0)
    return float(wrong / max(length, 1))  # a resample may hold nothing but empty targets
