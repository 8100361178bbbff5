"""Small networks that really do their job, and data for it: random layers, then one solved by least squares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageDraw

from networks import Net

Floats = np.ndarray[Any, np.dtype[np.float32]]
Sample = Mapping[str, Floats]  # by input, as the network is fed, batch axis included
KINDS = ("cross", "disc", "square", "triangle")


def outputs(model: onnx.ModelProto | Path, samples: Sequence[Sample]) -> list[dict[str, Floats]]:
    """What ONNX Runtime makes of each sample, by output."""
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(sample)), strict=True)) for sample in samples]


def solve(
    features: Floats, wanted: Floats, importance: Floats | None = None, ridge: float = 1e-3
) -> list[Floats]:
    """Weight [features, wanted] and bias [wanted] of the linear layer that comes nearest, rows by importance."""
    rows = np.hstack([features, np.ones((len(features), 1))]).astype(np.float64)
    weighted = rows if importance is None else rows * importance[:, None]
    penalty = ridge * np.trace(weighted.T @ rows) / rows.shape[1]
    found = np.linalg.solve(
        weighted.T @ rows + penalty * np.eye(rows.shape[1]), weighted.T @ wanted
    )
    return [found[:-1].astype(np.float32), found[-1].astype(np.float32)]


# ---- pictures of one thing


def picture(random: np.random.Generator, kind: str, size: int = 32) -> Image.Image:
    """One shape somewhere, of some size and colour, on noise."""
    noise = random.integers(0, 70, (size, size, 3), np.uint8)
    drawn = Image.fromarray(noise)
    reach = int(random.integers(7, 12))
    x, y = (int(v) for v in random.integers(reach, size - reach, 2))
    shape(ImageDraw.Draw(drawn), kind, (x - reach, y - reach, x + reach, y + reach), bright(random))
    return drawn


def bright(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(v) for v in random.integers(110, 256, 3))


def shape(
    draw: ImageDraw.ImageDraw, kind: str, box: tuple[int, int, int, int], colour: tuple[int, ...]
) -> None:
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    if kind == "disc":
        draw.ellipse(box, colour)
    elif kind == "square":
        draw.rectangle(box, colour)
    elif kind == "triangle":
        draw.polygon([(x, top), (right, bottom), (left, bottom)], colour)
    else:
        draw.rectangle((left, y - 2, right, y + 2), colour)
        draw.rectangle((x - 2, top, x + 2, bottom), colour)


def pictures(folder: Path, count: int, seed: int) -> None:
    """Class folders with `count` PNG files in all."""
    random = np.random.default_rng(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        picture(random, kind).save(folder / kind / f"{number:04}.png")


def seen(image: Image.Image, mean: float = 127.5, std: float = 127.5) -> Floats:
    """What a network is fed with: [1, 3, H, W]."""
    return ((np.asarray(image, np.float32) - mean) / std).transpose(2, 0, 1)[None]


def classifier() -> onnx.ModelProto:
    """Tells KINDS apart on pictures of 32 by 32 in -1 to 1: `image` to `logits`."""
    net = Net(seed=11)
    x = net.input("image", [1, 3, 32, 32])
    for inputs, count, stride in ((3, 16, 1), (16, 32, 2), (32, 96, 2)):
        x = net.relu6(net.conv(x, inputs, count, 3, stride=stride))
    pooled = [net.add(f"Global{how}Pool", x) for how in ("Average", "Max")]
    x = net.add("Flatten", net.add("Concat", *pooled, axis=1))
    random = np.random.default_rng(12)
    labels = random.integers(0, len(KINDS), 1200)
    fed = [{"image": seen(picture(random, KINDS[label]))} for label in labels]
    features = np.concatenate([each[x] for each in outputs(net.model(x), fed)])
    weight, bias = solve(features, 8 * np.eye(len(KINDS))[labels] - 4)
    net.add("Gemm", x, net.constant(weight), net.constant(bias))
    return named(net, "logits")


def named(net: Net, *names: str) -> onnx.ModelProto:
    """The network with the outputs of its last nodes under these names."""
    for node, name in zip(net.nodes[-len(names) :], names, strict=True):
        node.output[0] = name
    return net.model(*names)


# ---- pictures of several things

SIDE, STRIDE = 64, 8
CENTRES = (
    np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2) + 0.5
) * STRIDE  # x, y of each cell
COLOURS = {"disc": (230, 60, 60), "square": (60, 220, 70), "triangle": (70, 90, 240)}


def crowd(random: np.random.Generator) -> tuple[Image.Image, list[tuple[int, Floats]]]:
    """Up to three shapes apart from each other, and of each its class and its box: centre, width and height."""
    drawn = Image.fromarray(random.integers(0, 60, (SIDE, SIDE, 3), np.uint8))
    found: list[tuple[int, Floats]] = []
    for _ in range(int(random.integers(1, 4))):
        reach = int(random.integers(6, 11))
        x, y = (int(v) for v in random.integers(reach, SIDE - reach, 2))
        if all(np.abs(box[:2] - (x, y)).max() > reach + box[2] / 2 for _, box in found):
            label = int(random.integers(len(COLOURS)))
            kind = list(COLOURS)[label]
            shape(
                ImageDraw.Draw(drawn),
                kind,
                (x - reach, y - reach, x + reach, y + reach),
                COLOURS[kind],
            )
            found.append(
                (label, np.array([x + 0.5, y + 0.5, 2 * reach + 1, 2 * reach + 1], np.float32))
            )
    return drawn, found


def crowds(folder: Path, count: int, seed: int) -> None:
    """`count` PNG files in `folder`, and beside it their annotations as COCO has them."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    about: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    about["categories"] = [
        {"id": 3 * place + 1, "name": name} for place, name in enumerate(COLOURS)
    ]
    for number in range(count):
        drawn, found = crowd(random)
        drawn.save(folder / f"{number}.png")
        about["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE}
        )
        for label, (x, y, width, height) in found:
            box = [float(v) for v in (x - width / 2, y - height / 2, width, height)]
            entry = {
                "id": len(about["annotations"]) + 1,
                "image_id": number,
                "category_id": 3 * label + 1,
            }
            about["annotations"].append(
                {**entry, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    folder.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")


def detector() -> onnx.ModelProto:
    """A YOLO head like v8's over 8 by 8 cells: `images` in 0 to 1 to `output0` [1, 4 + 3, 64]."""
    net = Net(seed=21)
    x = net.input("images", [1, 3, SIDE, SIDE])
    for inputs, count, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 128, 1)):
        x = net.relu6(net.conv(x, inputs, count, 3, stride=stride))
    weight, bias = _head(net.model(x), x)
    cells = [net.constant(weight.T[:, :, None, None]), net.constant(bias)]
    flat = net.reshape(net.add("Conv", x, *cells, kernel_shape=[1, 1]), 1, 4 + len(COLOURS), -1)
    offsets, scores = net.several(
        "Split", flat, net.constant([4, len(COLOURS)], np.int64), count=2, axis=1
    )
    pixels = net.add("Mul", offsets, net.constant(np.float32(STRIDE)))
    where = np.concatenate([CENTRES.T, np.zeros((2, len(CENTRES)))])[None]
    net.add(
        "Concat", net.add("Add", pixels, net.constant(where)), net.add("Sigmoid", scores), axis=1
    )
    return named(net, "output0")


def kept(found: Floats, score: float, overlap: float) -> int:
    """How many boxes of [4 + classes, cells] score so much and are not suppressed by a better one of their class."""
    count = 0
    for scores in found[4:]:
        corners = [
            np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) for box in found[:4].T
        ]
        taken: list[Floats] = []
        for cell in np.argsort(-scores, kind="stable"):
            if scores[cell] >= score and all(
                _overlap(corners[cell], other) <= overlap for other in taken
            ):
                taken.append(corners[cell])
        count += len(taken)
    return count


def _overlap(one: Floats, other: Floats) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared)


def _head(trunk: onnx.ModelProto, features: str) -> list[Floats]:
    random = np.random.default_rng(22)
    drawn = [crowd(random) for _ in range(400)]
    maps = outputs(trunk, [{"images": seen(image, 0, 255)} for image, _ in drawn])
    rows = np.concatenate([each[features][0].reshape(-1, len(CENTRES)).T for each in maps])
    wanted = np.concatenate([_wanted(found) for _, found in drawn])
    near = wanted[:, 4:].max(axis=1) > 0
    offsets = solve(rows[near], wanted[near, :4])
    scores = solve(rows, wanted[:, 4:], np.where(near, 6.0, 1.0).astype(np.float32))
    return [np.concatenate(pair, axis=-1) for pair in zip(offsets, scores, strict=True)]


def _wanted(found: Sequence[tuple[int, Floats]]) -> Floats:
    """For each cell: the box of the object whose middle is near, from the cell in strides, and each class's logit."""
    wanted = np.concatenate(
        [np.zeros((len(CENTRES), 4)), np.full((len(CENTRES), len(COLOURS)), -5.0)], axis=1
    )
    for label, box in found:
        near = np.abs(CENTRES - box[:2]).max(axis=1) < STRIDE * 0.75
        wanted[near, :2], wanted[near, 2:4] = (box[:2] - CENTRES[near]) / STRIDE, box[2:] / STRIDE
        wanted[near, 4 + label] = 5
    return wanted.astype(np.float32)


# ---- sounds of several speakers

BANDS, FRAMES, SPEAKERS, WORDS = 24, 32, 3, 5


def sound(random: np.random.Generator, word: int, speaker: int) -> Floats:
    """A spectrogram [1, bands, frames]: a glide that tells the word, shifted by how high the speaker's voice is."""
    start, slope = 3 + 3 * word + 2 * speaker, (word % 3 - 1) / 8
    middle = start + slope * np.arange(FRAMES) + random.normal(0, 0.4)
    glide = 3 * np.exp(-((np.arange(BANDS)[:, None] - middle) ** 2) / 4)
    return (glide * random.uniform(0.7, 1.3) + random.normal(0, 0.5, (BANDS, FRAMES)))[None].astype(
        np.float32
    )


def sounds(count: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays `spectrogram`, `speaker` (one hot) and `word`, a sample a row."""
    random = np.random.default_rng(seed)
    words, speakers = random.integers(0, WORDS, count), random.integers(0, SPEAKERS, count)
    drawn = [sound(random, word, speaker) for word, speaker in zip(words, speakers, strict=True)]
    one_hot = np.eye(SPEAKERS, dtype=np.float32)[speakers]
    return {"spectrogram": np.stack(drawn), "speaker": one_hot, "word": words}


def heard(arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[Sample]:
    """The rows of `sounds` as the network is fed."""
    pairs = zip(arrays["spectrogram"], arrays["speaker"], strict=True)
    return [
        {"spectrogram": spectrogram[None], "speaker": speaker[None]}
        for spectrogram, speaker in pairs
    ]


def listener() -> onnx.ModelProto:
    """Tells words of known speakers: `spectrogram` and `speaker` to `logits`."""
    net = Net(seed=31)
    x = net.input("spectrogram", [1, 1, BANDS, FRAMES])
    for inputs, count in ((1, 16), (16, 32)):
        x = net.relu6(net.conv(x, inputs, count, 3, stride=2))
    heights = net.add("ReduceMean", x, axes=[3], keepdims=0)  # over time: the band tells the word
    who = net.dense(net.input("speaker", [1, SPEAKERS]), SPEAKERS, 128)
    sums = net.add("Add", net.dense(net.add("Flatten", heights), 32 * BANDS // 4, 128), who)
    x = net.add("Relu", sums)
    known = sounds(900, seed=32)
    features = np.concatenate([each[x] for each in outputs(net.model(x), heard(known))])
    weight, bias = solve(features, 8 * np.eye(WORDS)[known["word"]] - 4)
    net.add("Gemm", x, net.constant(weight), net.constant(bias))
    return named(net, "logits")
