"""Text: greedy CTC decoding and error rates, against tables by hand and a straight program."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qpipe
from qpipe.compare import intervals, knee, measured_rows, pareto, recommend
from qpipe.compare.scoring import Scores
from qpipe.stages import options
from qpipe_plugins.metric.agreement import agreement
from qpipe_plugins.metric.sqnr import sqnr
from qpipe_plugins.metric.wer import edit_distance, wer
from qpipe_plugins.postprocess.ctc_greedy import ctc_greedy

# ---- ctc_greedy


def frames(*symbols: int, count: int = 4) -> dict[str, np.ndarray]:
    """Scores [1, frames, count] with these symbols the best."""
    return {"logits": np.eye(count, dtype=np.float32)[list(symbols)][None]}


@pytest.mark.parametrize(
    ("best", "text"),
    [
        ([1, 1, 0, 2], "ab"),
        ([1, 0, 1], "aa"),
        ([1, 1, 1], "a"),
        ([0, 0], ""),
        ([3, 2, 2, 0, 2, 1, 0], "cbba"),
    ],
)
def test_repeats_are_merged_and_blanks_separate(best: list[int], text: str) -> None:
    assert ctc_greedy(frames(*best), alphabet="abc") == {"text": text}


def test_frames_may_come_first() -> None:
    outputs = {"y": np.moveaxis(frames(1, 0, 2)["logits"], 0, 1)}
    assert outputs["y"].shape == (3, 1, 4)
    assert ctc_greedy(outputs, alphabet="abc") == {"text": "ab"}


@pytest.mark.parametrize("blank", [3, -1])
def test_the_blank_may_be_the_last(blank: int) -> None:
    assert ctc_greedy(frames(0, 0, 3, 0, 2), alphabet="abc", blank=blank) == {"text": "aac"}


def test_the_alphabet_may_have_a_place_for_the_blank_and_symbols_of_several_letters() -> None:
    found = ctc_greedy(frames(1, 2, 0, 3), alphabet=["<blank>", "sch", " ", "ön"])
    assert found == {"text": "sch ön"}


def test_an_alphabet_can_be_a_file_with_a_symbol_a_line(tmp_path: Path) -> None:
    file = tmp_path / "alphabet.txt"
    file.write_text("a\n \nß\n", encoding="utf-8")
    assert ctc_greedy(frames(1, 2, 3, 0, 3), alphabet_file=file) == {"text": "a ßß"}


def test_probabilities_and_their_logarithms_decode_alike() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 30, 4))
    shifted = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    texts = {
        ctc_greedy({"y": scores}, alphabet="abc")["text"]
        for scores in (logits, shifted, np.exp(shifted))
    }
    assert len(texts) == 1


def test_a_frame_that_is_no_number_is_blank() -> None:
    outputs = frames(1, 2, 3)
    outputs["logits"][0, 1, 3] = np.nan
    assert ctc_greedy(outputs, alphabet="abc") == {"text": "ac"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either alphabet or alphabet_file"),
        (
            {"alphabet": "ab"},
            "the alphabet has 2 symbols, but there are 4 scores a frame; give 3, or 4 with the blank",
        ),
        ({"alphabet": "abc", "blank": 4}, "blank is 4, but there are 4 scores a frame"),
        ({"alphabet": "abc", "output": "y"}, "no output 'y'; there is logits"),
    ],
)
def test_what_does_not_fit_the_scores_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qpipe.StageError) as raised:
        ctc_greedy(frames(1, 2), **options)
    assert str(raised.value) == f"postprocess ctc_greedy: {message}"


def test_scores_of_another_shape_are_named() -> None:
    message = (
        r"output 'y' is \[2, 5, 4\]; give one of \[1, frames, symbols\] or \[frames, 1, symbols\]$"
    )
    with pytest.raises(qpipe.StageError, match=message):
        ctc_greedy({"y": np.zeros((2, 5, 4))}, alphabet="abc")


# ---- wer


def levenshtein(one: str, other: str) -> int:
    """By its recurrence."""

    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = between(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, replaced)

    return between(len(one), len(other))


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_edits_are_levenshteins_distance(one: str, other: str) -> None:
    assert edit_distance(one, other) == levenshtein(one, other)


def score(metric: qpipe.Metric, pairs: list[tuple[Any, Any]]) -> float:
    return metric.reduce([metric.contribution(*pair) for pair in pairs])


def test_the_rate_is_of_all_words_together_by_hand() -> None:
    # one replaced of three, one left out and one put in of two
    pairs = [({"text": "the cat sits"}, "the cat sat"), ({"text": "so what"}, "say so")]
    assert wer().contribution(*pairs[1]) == (2, 2)
    assert score(wer(), pairs) == pytest.approx(3 / 5)


def test_the_rate_of_characters_is_another_metric() -> None:
    assert score(wer(unit="character"), [("kitten", "sitting")]) == pytest.approx(3 / 7)
    assert [wer().name, wer(unit="character").name] == ["wer", "cer"]


def test_tokens_are_words() -> None:
    assert score(wer(), [([5, 7, 9], [5, 8, 9, 9])]) == pytest.approx(2 / 4)
    assert score(wer(), [({"ids": np.array([[5, 7]])}, [5, 7])]) == 0.0


def test_more_words_than_there_are_to_hear_make_a_rate_beyond_one() -> None:
    assert score(wer(), [("a b c d", "x"), ("", "")]) == 4.0
    assert score(wer(), [("a", "")]) == 1.0


def test_a_lower_rate_is_better_and_its_interval_stays_at_zero_or_more() -> None:
    metric = wer()
    contributions = [(0, 10)] * 30 + [(1, 10)]
    drawn = intervals.resample(contributions, metric.reduce)
    low, high = intervals.percentiles(drawn, metric.reduce(contributions), 31, intervals.AMOUNT)
    assert metric.better == "min"
    assert 0 <= low <= metric.reduce(contributions) < high < 0.1


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [({"y": np.zeros((1, 5, 4))}, "a", "the prediction is ndarray"), ("a", 3, "the target is int"),
     ("a", None, "the target is NoneType")],
)  # fmt: skip
def test_what_is_no_text_is_named(prediction: Any, target: Any, message: str) -> None:
    with pytest.raises(
        qpipe.StageError, match=f"^metric wer: {message}; it is a text, or a list of tokens"
    ):
        wer().contribution(prediction, target)


# ---- from outputs to the front


def heard(noise: float) -> measured_rows.Candidate:
    """What is measured of a network that says the text of each sample, less well the more noise there is."""
    rng = np.random.default_rng(8)
    scores = Scores(
        [wer(unit="character"), agreement(), sqnr()], partial(ctc_greedy, alphabet="abc")
    )
    for number in range(40):
        symbols = rng.integers(1, 4, 12)
        clear = frames(*np.stack([symbols, np.zeros(12, np.int64)], axis=1).ravel().tolist())
        noisy = {"logits": clear["logits"] + rng.normal(0, noise, clear["logits"].shape)}
        target = "".join(" abc"[symbol] for symbol in symbols)
        scores.add(qpipe.Sample(str(number), {}, target), noisy, clear)
    measured = {each.metric: each for each in scores.measurements()}
    return measured_rows.Candidate(
        "net", f"noise {noise}", "ort", "local", {}, "onnxruntime", not noise, measured
    )


def test_a_lower_error_rate_is_what_the_front_and_the_advice_are_after() -> None:
    rows = [heard(noise) for noise in (0.6, 0.0, 0.3)]
    rates = {row.scheme: row.metrics["cer"] for row in rows}
    assert rates["noise 0.0"].value == 0.0
    assert rows[1].metrics["agreement"].value == 1.0
    assert 0 < rates["noise 0.3"].value < rates["noise 0.6"].value
    for rate in rates.values():
        assert 0 <= rate.low <= rate.value <= rate.high  # type: ignore[operator]
    found = {verdict["scheme"]: verdict for verdict in pareto.verdicts(rows, {"cer": "min"})}
    assert [found[f"noise {n}"]["on_front"] for n in (0.0, 0.3, 0.6)] == [True, False, False]
    shown = [
        {"model": row.model, "scheme": row.scheme, "build": row.build, "device": row.device, "name": row.scheme,
         "on_front": found[row.scheme]["on_front"], "metrics": {"cer": vars(rates[row.scheme])}}
        for row in rows
    ]  # fmt: skip
    assert "ship noise 0.0" in knee.describe_knees(shown, {"cer": "min"})[0]
    judged = [pareto.JudgedRow(*pair) for pair in zip(shown, rows, strict=True)]
    advice = recommend.recommend(judged, {"cer": "min"})[0]
    # float makes no errors, of which no part may be lost
    assert (
        "nothing is recommended: no scheme is shown to lose at most 1 % of float's cer; noise 0.3 loses "
        in advice
    )


def test_options_are_what_a_recipe_can_say() -> None:
    assert options.check(ctc_greedy, {"alphabet": "abc"}, "here")["alphabet"] == "abc"
    given = options.check(ctc_greedy, {"alphabet": ["a", "b"], "blank": -1}, "here")
    assert (given["alphabet"], given["blank"]) == (["a", "b"], -1)
    assert options.check(ctc_greedy, {"alphabet_file": "x/letters"}, "here")[
        "alphabet_file"
    ] == Path("x/letters")
