"""Guided training against naive training, with the same start and from the same seeds: scores at parts of a budget.

python tests/bench/bench_guidance.py STEPS [SEEDS] [NAME=VALUE ...]

Naive training has STEPS steps; guided training has as many, half and a quarter of them. Then each ingredient is taken
away in turn, for all steps. The values are options of `qat` (YAML) for all rows; scenes, how many are scored.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bench_training import CALIBRATION, SCENES, Trial, prepare

from qpipe_plugins.quantize.training_extra import held_out_indices

SEEDS = 3
BATCH = 8
WITHOUT: dict[str, dict[str, Any]] = {
    "scales": {"scale_rate": 0.0},
    "features": {"features": 0.0},
    "classes": {"classes": ()},
    "augmentation": {"augment": ()},
    "freezing": {"freezing": False},
}


def rows(trial: Trial, name: str, seeds: int, steps: int, options: dict[str, Any]) -> None:
    """Print a row for each seed, and their mean."""
    trained = CALIBRATION - len(held_out_indices(CALIBRATION))
    epochs = max(1, round(steps / -(-trained // BATCH)))
    scores = []
    for seed in range(seeds):
        model = trial.train(**{"epochs": epochs, "seed": seed, "batch": BATCH} | options)
        row = trial.score(f"{name} | {epochs} | {seed}", model)
        scores.append(float(row.split("|")[4]))
        print(row, flush=True)
    print(f"| {name} | {epochs} | mean | {np.mean(scores):.4f} | |", flush=True)


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    steps = int(sys.argv[1])
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 and "=" not in sys.argv[2] else SEEDS
    settings = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
    options = {name: yaml.safe_load(text) for name, text in settings.items()}
    count = options.pop("scenes", SCENES)
    with tempfile.TemporaryDirectory() as folder:
        trial = prepare(Path(folder), "pot", scenes_to_score=count, calibration_count=CALIBRATION)
        print("| training | epochs | seed | map50 | SQNR dB: boxes, scores, both |")
        print("|---|---|---|---|---|")
        print(trial.score("none | 0 | ", trial.start), flush=True)
        rows(trial, "naive", seeds, steps, options | {"guided": False})
        for part in (4, 2, 1):
            rows(trial, "guided", seeds, steps // part, options)
        for name, without in WITHOUT.items():
            if options.keys() >= without.keys() or name in ("scales", "features", "freezing"):
                rows(trial, f"guided, without {name}", seeds, steps, options | without)


if __name__ == "__main__":
    main()
