"""A network that gives text, from samples to the front by its error rate: the real command line, on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

pytestmark = pytest.mark.slow
LETTERS = "abcdefg "
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
ear (float[1, 40, 16] sound) => (float[1, 40, 9] logits) { logits = MatMul (sound, filters) }
"""
SAMPLES = '''
"""Tones that stand for letters, in noise."""
from pathlib import Path
import numpy as np
import qpipe

def spoken(*, tones: Path, count: int = 30, noise: float = 0.25) -> qpipe.Dataset:
    """Draw sentences of 20 letters."""
    def draw(part):
        of_letters = np.load(tones)
        random = np.random.default_rng(len(part))
        for i in range(count):
            symbols = np.stack([random.integers(1, 9, 20), np.zeros(20, int)], axis=1).ravel()
            sound = of_letters[symbols] + random.normal(0, noise, (40, 16))
            text = "".join(" abcdefg "[symbol] for symbol in symbols[::2])
            yield qpipe.Sample(f"{part}{i}", {"sound": sound.astype(np.float32)}, text)

    return qpipe.Dataset(draw("few"), draw("many"), {"sound": qpipe.Preprocessing()})

@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", spoken)
'''
RECIPE = """
name: speech
plugins: [tones.py]
samples: {spoken: {tones: tones.npy}}
models: {ear: {onnx: {path: ear.onnx}}}
schemes:
  int8: [{symmetric: {granularity: channel}}]
  int2: [{symmetric: {bits: 2}}]
measure:
- accuracy: {postprocess: {ctc_greedy: {alphabet_file: letters.txt}}, metric: [wer, {wer: {unit: character}}]}
pareto: {cer: min}
"""


def test_schemes_are_judged_by_their_error_rate(tmp_path: Path) -> None:
    tones = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32)
    np.save(tmp_path / "tones.npy", tones)
    model = onnx.parser.parse_model(NETWORK)
    filters = np.linalg.pinv(tones).astype(
        np.float32
    )  # each letter's tone gives 1 for it and 0 for the others
    model.graph.initializer.append(numpy_helper.from_array(filters, "filters"))
    onnx.save(model, tmp_path / "ear.onnx")
    (tmp_path / "letters.txt").write_text("\n".join(LETTERS) + "\n", encoding="utf-8")
    (tmp_path / "tones.py").write_text(SAMPLES, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "devices.yaml").write_text(
        f"local: {{local: {{folder: {tmp_path / 'here'}}}}}\n", encoding="utf-8"
    )
    command = [Path(sys.executable).parent / "qpipe", "run", "r.yaml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row["scheme"]: row for row in json.loads(done.stdout)["rows"]}
    rates = {scheme: row["metrics"]["cer"] for scheme, row in rows.items()}
    assert rates["float32"]["value"] < rates["int2"]["value"]
    for rate in rates.values():
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    assert not rows["int2"]["on_front"]
    assert rows["int2"]["reason"].startswith("dominated by ")
    assert {"wer", "cer", "agreement", "sqnr_db"} <= rows["int8"]["metrics"].keys()
