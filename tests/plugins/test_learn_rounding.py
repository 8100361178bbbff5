"""Rounding that is learned block by block: closer to float, in the same codebook, and never worse."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from models import conv_net
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.learn_rounding import learn_rounding
from qpipe_plugins.quantize.symmetric import symmetric
from trained import CALIBRATION, needs_torch, noise_db, quiet, start, statistics, written

pytestmark = pytest.mark.xdist_group("student")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return written(tmp_path_factory.mktemp("samples"), [array[0] for array in CALIBRATION])


@needs_torch
@pytest.mark.parametrize("layers", [1, 4])
def test_it_comes_closer_to_float_in_the_same_codebook(layers, samples, tmp_path):
    before = symmetric(conv_net(), statistics(), bits=3)
    model = learn_rounding(
        symmetric(conv_net(), statistics(), bits=3),
        conv_net(),
        samples,
        tmp_path,
        quiet,
        steps=60,
        layers=layers,
        rate=0.02,
        scale_rate=2e-3,
        memory_mb=0,
    )
    assert noise_db(model) > noise_db(before) + 2
    for old, new in zip(qdq.weights(before), qdq.weights(model), strict=True):
        assert new.quantized.codebook == old.quantized.codebook
        assert set(np.unique(new.quantized.codes)) <= set(old.quantized.codebook.levels)
        assert new.quantized.axis == old.quantized.axis


@needs_torch
def test_it_learns_with_activations_of_few_bits(samples, tmp_path):
    def w3a4():
        weights = symmetric(conv_net(), statistics(), bits=3, activation_range="none")
        return activations(weights, statistics(), bits=4, activation_range="mse")

    model = learn_rounding(
        w3a4(), conv_net(), samples, tmp_path, quiet, steps=60, rate=0.02, scale_rate=5e-3
    )
    assert noise_db(model) > noise_db(w3a4()) + 1
    clips = [[node.op_type for node in network.graph].count("Clip") for network in (model, w3a4())]
    assert clips[0] == clips[1] > 0


@needs_torch
def test_blocks_that_get_worse_stay_as_they_were(samples, tmp_path, caplog):
    before = start()
    model = learn_rounding(
        start(), conv_net(), samples, tmp_path, quiet, steps=2, layers=1, rate=1.0, scale_rate=1.0
    )
    assert re.search(
        r"block 1 of 4, 1 weights: \S+ dB before, \S+ dB afterwards; it stays", caplog.text
    )
    assert noise_db(model) >= noise_db(before) - 0.5


def test_without_torch_the_error_says_which_extra(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = "quantize learn_rounding: torch is not installed; pip install 'qpipe-edge[train]'"
    with pytest.raises(StageError, match=re.escape(message)):
        learn_rounding(start(), conv_net(), samples, tmp_path, quiet)


@needs_torch
def test_a_network_that_is_not_quantized_yet_is_refused(samples, tmp_path):
    with pytest.raises(
        StageError, match="quantize learn_rounding: no weight is quantized yet; put"
    ):
        learn_rounding(conv_net(), conv_net(), samples, tmp_path, quiet, steps=1)
