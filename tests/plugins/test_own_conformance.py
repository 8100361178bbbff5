"""All that is built in passes the conformance kit which plugins of others are held to."""

from __future__ import annotations

import json
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import networks
from qpipe import testing
from qpipe.cli.stage_list import ALL_KINDS, all_stages
from qpipe.stages import registry
from qpipe.testing import CheckResult

# its tests share fixtures that are slow to make
pytestmark = [pytest.mark.xdist_group("own conformance"), pytest.mark.slow]

PLUGINS = registry.load()
STAGES = [(stage.kind, stage.name) for stage in all_stages(PLUGINS)]
# what stands on libraries that the tests do not need, and what reads from the network
NOT_TRIED = {
    ("import", "torch"), ("import", "download"), ("quantize", "learn_rounding"), ("quantize", "qat"),
    ("quantize", "nncf"), ("quantize", "neural_compressor"), ("quantize", "quark"),
}  # fmt: skip
NO_SHARE = "a share is within 0 and 1"
# the checks that say nothing about a stage; of all others each says something
SKIPPED = {
    ("metric", "sqnr"): {NO_SHARE},
    ("metric", "wer"): {NO_SHARE},
    ("samples", "scenes"): {"decode gives what the dataset gives"},  # it draws, and reads no file
    ("samples", "npz"): {"decode gives what the dataset gives"},  # one file has all samples
    ("measure", "energy"): {"measurements are declared", "what is cached is deterministic"},
    ("measure", "latency"): {"what is cached is deterministic"},
    ("measure", "memory"): {"what is cached is deterministic"},
    ("measure", "placement"): {"measurements are declared"},
    ("device", "null"): {"device runs builds", "failures are one line"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, and samples of all sorts: pictures with boxes, sounds, arrays."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(4)
    onnx.save(networks.keywords(), root / "net.onnx")
    for part in ("calibration", "evaluation"):
        images = []
        boxes = []
        for folder in ("pictures", "sounds"):
            (root / part / folder).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (24, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / part / "pictures" / f"{part}-{number}.png")
            images.append(
                {"id": number, "file_name": f"{part}-{number}.png", "width": 32, "height": 24}
            )
            boxes.append(
                {
                    "id": number + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [2, 3, 9, 8],
                    "iscrowd": 0,
                }
            )
            with wave.open(str(root / part / "sounds" / f"{part}-{number}.wav"), "wb") as sound:
                sound.setparams((1, 2, 8000, 0, "NONE", ""))
                sound.writeframes(random.integers(-9999, 9999, 4000, np.int16).tobytes())
        annotations = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 1, "name": "box"}],
        }
        for kind, suffix in (("pictures", "png"), ("sounds", "wav")):
            lines = [f"{part}-{number}.{suffix},{number}" for number in range(3)]
            labels = "\n".join(["file,label", *lines])
            (root / f"{part}-{kind}.csv").write_text(labels, encoding="utf-8")
        (root / part / "boxes.json").write_text(json.dumps(annotations), encoding="utf-8")
        np.savez(root / part / "arrays.npz", x=random.random((4, 5), np.float32), y=np.arange(4))
    return root


def options_of(kind: str, name: str, folder: Path) -> dict[str, Any]:
    """What a recipe would give, where a stage cannot do without."""
    parts = {part: folder / part for part in ("calibration", "evaluation")}
    pixels = {"size": 24, "mean": 0, "std": 255}
    return {
        ("samples", "images"): {
            **{part: parts[part] / "pictures" for part in parts}, **pixels,
            "evaluation_labels": folder / "evaluation-pictures.csv",
        },
        ("samples", "coco"): {
            "images": parts["evaluation"] / "pictures", "annotations": parts["evaluation"] / "boxes.json",
            "calibration": parts["calibration"] / "pictures", **pixels,
        },
        ("samples", "wav"): {
            **{part: parts[part] / "sounds" for part in parts}, "rate": 8000, "seconds": 0.5,
            "evaluation_labels": folder / "evaluation-sounds.csv",
        },
        ("samples", "npz"): {**{part: parts[part] / "arrays.npz" for part in parts}, "target": "y"},
        ("import", "onnx"): {"path": folder / "net.onnx"},
        ("postprocess", "ctc_greedy"): {"alphabet": "abcdefghijk"},
        ("postprocess", "ssd_boxes"): {"size": 64, "strides": [32], "scales": [0.3, 0.6], "ratios": [1]},
        ("power", "command"): {"off": "true", "on": "true"},
    }.get((kind, name), {})  # fmt: skip


def outputs_of(name: str) -> Mapping[str, np.ndarray[Any, Any]] | None:
    """The outputs of a network that a postprocess is for."""
    random = np.random.default_rng(5)
    if name == "yolo_boxes":
        return {"output": random.random((1, 7, 84), np.float32)}
    if name == "ssd_boxes":
        return {
            "boxes": random.random((1, 8, 4), np.float32),
            "scores": random.random((1, 8, 3), np.float32),
        }
    return None


def results_of(kind: str, name: str, options: dict[str, Any]) -> list[CheckResult]:
    checks = testing.checks(kind, name, options=options, outputs=outputs_of(name), plugins=PLUGINS)
    return [check.result() for check in checks]


@pytest.mark.parametrize(
    ("kind", "name"),
    [stage for stage in STAGES if stage not in NOT_TRIED and stage != ("device", "ssh")],
)
def test_a_built_in_conforms(kind: str, name: str, folder: Path) -> None:
    results = results_of(kind, name, options_of(kind, name, folder))
    assert [result for result in results if result.state == "failed"] == []
    skipped = {result.check: result.detail for result in results if result.state == "skipped"}
    assert set(skipped) == SKIPPED.get((kind, name), set()), skipped


def test_a_device_over_ssh_conforms(sshd: Any, tmp_path: Path) -> None:
    results = results_of("device", "ssh", sshd.options(tmp_path / "board"))
    assert {result.state for result in results} == {"ok"}, results


@pytest.mark.parametrize(("kind", "name"), sorted(NOT_TRIED))
def test_what_is_not_tried_documents_its_options_and_refuses_wrong_ones(
    kind: str, name: str
) -> None:
    results = {result.check: result for result in results_of(kind, name, {})}
    for check in ("options are documented", "wrong options are refused", "key depends on code"):
        assert results[check].state == "ok", results[check]
    assert "failed" not in {result.state for result in results.values()}


def test_every_kind_has_requirements() -> None:
    assert set(ALL_KINDS) == {kind for kind, _ in STAGES}
