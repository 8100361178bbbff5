"""Probabilities, against exponentials in extended precision."""

from __future__ import annotations

import numpy as np
import pytest

import qpipe
from qpipe_plugins.postprocess.softmax import softmax


def exact(logits: np.ndarray, axis: int) -> np.ndarray:
    wide = logits.astype(np.longdouble)
    powers = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("shape", [(1, 10), (10,), (1, 10, 1, 1)])
def test_the_only_long_axis_is_that_of_the_classes(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)
    found = softmax({"y": logits})["y"]
    # exponents of up to 100 with an error of half a unit of 2^-24 each, then as many roundings as there are terms
    np.testing.assert_allclose(found, exact(logits, int(np.argmax(shape))), rtol=2e-5, atol=1e-40)
    assert found.dtype == np.float32


def test_scores_beyond_what_exp_can_hold_are_no_trouble() -> None:
    found = softmax({"y": np.float32([[1000.0, 1000.0, -1000.0]])})["y"]
    np.testing.assert_array_equal(found, [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_the_axis_that_is_given_sums_to_one(axis: int) -> None:
    logits = np.random.default_rng(1).normal(size=(1, 4, 5, 6)).astype(np.float32)
    sums = softmax({"y": logits}, axis=axis)["y"].sum(axis=axis)
    np.testing.assert_allclose(sums, 1, atol=6 * 2.0**-24)


def test_the_output_that_is_named_comes_first_and_the_others_stay() -> None:
    outputs = {"boxes": np.zeros((1, 7, 4)), "scores": np.float32([[0, 0]])}
    found = softmax(outputs, output="scores")
    assert list(found) == ["scores", "boxes"]
    assert found["boxes"] is outputs["boxes"]
    np.testing.assert_array_equal(found["scores"], [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((1, 3, 8, 8), None, "output 'y' is [1, 3, 8, 8]; set axis to that of its classes"),
        ((1, 1), None, "output 'y' is [1, 1]; set axis to that of its classes"),
        (
            (1, 9, 1, 1),
            -1,
            "output 'y' is [1, 9, 1, 1]: axis -1 has length 1; set axis to that of its classes",
        ),
        ((1, 9), 2, "output 'y' is [1, 9], it has no axis 2; set axis to one from -2 to 1"),
    ],
)
def test_an_axis_that_is_not_clear_is_asked_for(
    shape: tuple[int, ...], axis: int | None, message: str
) -> None:
    with pytest.raises(qpipe.StageError) as raised:
        softmax({"y": np.zeros(shape, np.float32)}, axis=axis)
    assert str(raised.value) == f"postprocess softmax: {message}"


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(
        qpipe.StageError, match=r"^postprocess softmax: no output 'z'; there is x, y$"
    ):
        softmax({"x": np.zeros(2), "y": np.zeros(2)}, output="z")
