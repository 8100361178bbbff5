"""Greedy CTC decoding: the best symbol of each frame, repeats merged, blanks dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qpipe.errors import StageError
from qpipe_plugins.postprocess.output_choice import choose_output

if TYPE_CHECKING:
    from qpipe.types import Array


def ctc_greedy(
    outputs: Mapping[str, Array],
    *,
    alphabet: str | list[str] | None = None,
    alphabet_file: Path | None = None,
    blank: int = 0,
    output: str | None = None,
) -> dict[str, str]:
    """Text of one sample by greedy CTC decoding of scores, [1, frames, symbols] or time-major.

    Time-major scores are [frames, 1, symbols]. `alphabet` is a text or list of the symbols in the
    order of their scores; `alphabet_file` has one a line (a line of one space is the space). It may
    leave out the blank, whose index in the scores is `blank` (-1 is the last). Logits,
    probabilities and their logarithms give the same text (Graves et al. 2006).
    """
    name, array = choose_output(outputs, output, "ctc_greedy")
    if array.ndim != 3 or 1 not in array.shape[:2]:
        fix = "give one of [1, frames, symbols] or [frames, 1, symbols]"
        raise _error(f"output '{name}' is {list(array.shape)}; {fix}")
    frames = array[0] if array.shape[0] == 1 else array[:, 0]
    symbols = _symbols(alphabet, alphabet_file, frames.shape[1], blank)
    has_nan = np.isnan(frames).any(axis=1)
    best = np.where(has_nan, blank % len(symbols), frames.argmax(axis=1))
    is_new = np.diff(best, prepend=-1) != 0
    return {"text": "".join(symbols[index] for index in best[is_new])}


def _symbols(
    alphabet: str | list[str] | None, file: Path | None, count: int, blank: int
) -> list[str]:
    """Return a symbol for each of `count` scores, that of the blank empty."""
    if (alphabet is None) == (file is None):
        raise _error("give either alphabet or alphabet_file")
    symbols = list(alphabet or "") if file is None else _lines(file)
    if not -count <= blank < count:
        raise _error(f"blank is {blank}, but there are {count} scores a frame")
    if len(symbols) == count - 1:
        symbols.insert(blank % count, "")
    if len(symbols) != count:
        reason = f"the alphabet has {len(symbols)} symbols, but there are {count} scores a frame"
        raise _error(f"{reason}; give {count - 1}, or {count} with the blank")
    symbols[blank] = ""
    return symbols


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _error(f"{file} cannot be read: {error}") from error
    return text.removesuffix("\n").split("\n")


def _error(reason: str) -> StageError:
    return StageError(f"postprocess ctc_greedy: {reason}")
