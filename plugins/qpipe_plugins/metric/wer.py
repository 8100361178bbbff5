"""Error rate of sequences: edits over words or characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

import qpipe

Unit = Literal["word", "character"]
METRIC_NAMES = {"word": "wer", "character": "cer"}


def wer(*, unit: Unit = "word") -> qpipe.Metric:
    """Word error rate: insertions, deletions and replacements over the words of the target.

    With `unit: character`, of characters: metric cer. A target is a text or a list of tokens; a
    prediction has one as `text`, or its first output holds whole numbers. Words are separated by
    white space; case and punctuation count. The rate is over all samples together and can exceed 1.
    """

    def contribution(prediction: Any, target: Any) -> tuple[int, int]:
        outputs = prediction if isinstance(prediction, Mapping) else {"text": prediction}
        answer = outputs["text"] if "text" in outputs else next(iter(outputs.values()))
        target_tokens = _tokens(target, unit, "target")
        answer_tokens = _tokens(answer, unit, "prediction")
        return edit_distance(answer_tokens, target_tokens), len(target_tokens)

    return qpipe.Metric(METRIC_NAMES[unit], contribution, _rate, better="min")


def _tokens(value: Any, unit: Unit, what: str) -> list[Any]:
    if isinstance(value, str):
        return value.split() if unit == "word" else list(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuU":
        tokens: list[Any] = value.ravel().tolist()
        return tokens
    if isinstance(value, list | tuple):
        return list(value)
    fix = "it is a text, or a list of tokens (set postprocess: ctc_greedy, say)"
    raise qpipe.StageError(f"metric wer: the {what} is {type(value).__name__}; {fix}")


def edit_distance(source: Sequence[Any], target: Sequence[Any]) -> int:
    """Return the Levenshtein distance: the fewest edits that turn `source` into `target`."""
    codes = {token: code for code, token in enumerate({*source, *target})}
    columns = np.arange(len(target) + 1)
    target_codes = np.array([codes[token] for token in target], np.int64)
    row = columns
    for token in source:
        deletions = row[1:] + 1
        replacements = row[:-1] + (target_codes != codes[token])
        row = np.concatenate([row[:1] + 1, np.minimum(deletions, replacements)])
        # insertions, from left to right
        row = np.minimum.accumulate(row - columns) + columns
    return int(row[-1])


def _rate(contributions: Sequence[tuple[int, int]]) -> float:
    edits, length = np.sum(np.asarray(contributions), axis=0)
    return float(edits / max(length, 1))  # a resample may hold empty targets only
