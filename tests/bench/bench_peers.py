"""How fast the int8 files of qpipe's own schemes are, against those of all peers that are installed, in one run.

python tests/bench/bench_peers.py RECIPE [NAME=VALUE ...]

RECIPE has the schemes int8-channel and int8-tensor, as recipes/mobilenet_v2_schemes.yaml does.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path

from bench_builds import Chain, measured

from qpipe.compare.intervals import paired_ratio

OWN = ("int8-channel", "int8-tensor")
PEERS: dict[str, tuple[str, Chain]] = {  # scheme: the module it needs, the chain
    "peer-onnxruntime": ("onnxruntime", ["onnxruntime_static"]),
    "peer-quark": ("quark", ["quark"]),
    "peer-nncf": ("nncf", ["nncf"]),
    "peer-neural_compressor": ("onnx_neural_compressor", ["neural_compressor"]),
}


def main() -> None:
    """Print each own scheme's time over that of the fastest peer, paired round by round."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    there = {
        name: chain for name, (module, chain) in PEERS.items() if importlib.util.find_spec(module)
    }
    rounds, _ = measured(Path(sys.argv[1]), sys.argv[2:], OWN, there)
    middles = {scheme: statistics.median(medians) for scheme, medians in rounds.items()}
    for scheme, middle in sorted(middles.items(), key=lambda item: item[1]):
        print(f"  {scheme}: {middle:.3f} ms")
    fastest = min((name for name in there if name in rounds), key=lambda name: middles[name])
    for scheme in OWN:
        ratio, interval = paired_ratio(rounds[scheme], rounds[fastest])
        low, high = interval or (ratio, ratio)
        print(f"latency {scheme} / {fastest}: {ratio:.3f} ({low:.3f} to {high:.3f}) (at most 1.02)")


if __name__ == "__main__":
    main()
