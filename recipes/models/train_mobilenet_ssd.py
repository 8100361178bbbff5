"""Train the MobileNetV2-SSD of this folder on drawn scenes and export it to ONNX.

    pip install -e '.[train]' && python recipes/models/train_mobilenet_ssd.py

The defaults are those that made mobilenet_ssd.onnx.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import io
import math
import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from onnxscript import optimizer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.nn import functional

from qpipe_plugins.postprocess.ssd_boxes import VARIANCES, default_boxes, ssd_boxes
from qpipe_plugins.samples.scene_drawing import CLASSES, Scene, draw_scene, scene_index

SIZE = 192
BOXES_PER_CELL = 4

# expansion, channels, repeats, stride: MobileNetV2 of width 0.5, but with 24 channels at
# stride 8, where small shapes are detected
STAGES = ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2))


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.stride = stride
        self.residual = stride == 1 and inputs == outputs
        self.expand = convolution(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = convolution(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The block's result, and its wide map before the depthwise convolution."""
        wide = self.expand(image)
        result = self.project(self.depthwise(wide))
        return (image + result if self.residual else result), wide


class Predictor(nn.Module):
    """SSDLite head for one map: depthwise 3x3, then pointwise to `values` a default box."""

    def __init__(self, inputs: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.depthwise = convolution(inputs, inputs, 3, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, BOXES_PER_CELL * values, 1)

    def forward(self, features: Tensor) -> Tensor:
        values = self.pointwise(self.depthwise(features))
        batch, _, rows, columns = values.shape
        return values.permute(0, 2, 3, 1).reshape(
            batch, rows * columns * BOXES_PER_CELL, self.values
        )


class MobileNetSSD(nn.Module):
    """Offsets [B, N, 4] and logits [B, N, classes + 1] from maps of stride 8, 16, 32 and 64."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = 16
        for expansion, outputs, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                self.blocks.append(InvertedResidual(channels, outputs, stride, expansion))
                channels = outputs
        self.last = convolution(channels, 320, 1)
        self.extra = nn.Sequential(
            convolution(320, 128, 1),
            convolution(128, 128, 3, stride=2, groups=128),
            convolution(128, 256, 1),
        )
        widths = (6 * 24, 6 * 48, 320, 256)
        self.box_heads = nn.ModuleList(Predictor(width, 4) for width in widths)
        self.score_heads = nn.ModuleList(Predictor(width, classes + 1) for width in widths)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.stem(image)
        wide_maps = []
        for block in self.blocks:
            image, wide = block(image)
            if block.stride == 2:
                wide_maps.append(wide)
        last = self.last(image)
        # as in SSDLite, strides 8 and 16 are read inside the block that ends them; the first two
        # are strides 2 and 4
        maps = [*wide_maps[2:], last, self.extra(last)]
        boxes = torch.cat(
            [head(features) for head, features in zip(self.box_heads, maps, strict=True)], dim=1
        )
        scores = torch.cat(
            [head(features) for head, features in zip(self.score_heads, maps, strict=True)], dim=1
        )
        return boxes, scores


def draw_split(split: str, count: int, seed: int, processes: int) -> list[Scene]:
    indices = [scene_index(split, number) for number in range(count)]
    with multiprocessing.Pool(processes) as pool:
        return pool.map(partial(draw_scene, seed, size=SIZE), indices, chunksize=64)


def normalize(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in -1 to 1, in channels_last memory."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def turned(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one of the eight turns and flips, colors exchanged and perhaps inverted.

    No label changes.
    """
    image = scene.image
    boxes = scene.boxes
    if rng.random() < 0.5:
        image = image.transpose(1, 0, 2)
        boxes = boxes[:, [1, 0, 3, 2]]
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([SIZE - boxes[:, 2], boxes[:, 1], SIZE - boxes[:, 0], boxes[:, 3]], 1)
    if rng.random() < 0.5:
        image = image[::-1]
        boxes = np.stack([boxes[:, 0], SIZE - boxes[:, 3], boxes[:, 2], SIZE - boxes[:, 1]], 1)
    image = image[:, :, rng.permutation(3)]
    return (255 - image if rng.random() < 0.3 else image), boxes


def batches(
    scenes: list[Scene], size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images, boxes [B, M, 4] and labels [B, M], padded with label -1.

    The last batch is left out if it is short.
    """
    order = rng.permutation(len(scenes))
    for start in range(0, len(order) - size + 1, size):
        chosen = [scenes[index] for index in order[start : start + size]]
        most = max(1, max(len(scene.labels) for scene in chosen))
        images = np.empty((size, SIZE, SIZE, 3), np.uint8)
        boxes = np.zeros((size, most, 4), np.float32)
        labels = np.full((size, most), -1)
        for row, scene in enumerate(chosen):
            images[row], boxes[row, : len(scene.labels)] = turned(scene, rng)
            labels[row, : len(scene.labels)] = scene.labels
        yield normalize(torch.from_numpy(images)), torch.from_numpy(boxes), torch.from_numpy(labels)


def corners(priors: Tensor) -> Tensor:
    return torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)


def overlaps(priors: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union, [B, N, M], of corner boxes [N, 4] and [B, M, 4]."""
    one = priors[None, :, None]
    other = boxes[:, None]
    sides = (
        torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    ).clamp(min=0)
    areas = [(item[..., 2:] - item[..., :2]).prod(-1) for item in (one, other)]
    shared = sides.prod(-1)
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


def match(priors: Tensor, boxes: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return for each default box the offsets to learn, [B, N, 4], and its class, [B, N].

    Class 0 is the background. A default box takes the object it overlaps best, if by `threshold`;
    each object has its best default box at least.
    """
    overlap = overlaps(corners(priors), boxes).masked_fill(labels[:, None] < 0, -1)
    best, which = overlap.max(dim=2)
    favourite = overlap.argmax(dim=1)
    for item in range(labels.shape[1]):
        present = torch.nonzero(labels[:, item] >= 0)[:, 0]
        best[present, favourite[present, item]] = 1
        which[present, favourite[present, item]] = item
    target = boxes.gather(1, which[..., None].expand(-1, -1, 4))
    centre = (target[..., :2] + target[..., 2:]) / 2
    sides = (target[..., 2:] - target[..., :2]).clamp(min=1)
    moved = (centre - priors[:, :2]) / priors[:, 2:] / VARIANCES[0]
    scaled = torch.log(sides / priors[:, 2:]) / VARIANCES[1]
    classes = torch.where(best >= threshold, labels.gather(1, which) + 1, 0)
    return torch.cat([moved, scaled], dim=2), classes


def multibox_loss(offsets: Tensor, logits: Tensor, wanted: Tensor, classes: Tensor) -> Tensor:
    """Return smooth L1 on the objects, plus cross entropy on them and on hard background boxes.

    These are the hardest ones, three times as many as objects.
    """
    positive = classes > 0
    count = positive.sum().clamp(min=1)
    location = functional.smooth_l1_loss(offsets[positive], wanted[positive], reduction="sum")
    entropy = functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
    hardness = entropy.detach().masked_fill(positive, -1)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    hard = (rank < 3 * positive.sum(dim=1, keepdim=True).clamp(min=1)) & ~positive
    return (location + entropy[positive | hard].sum()) / count


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """A factor: linear warmup, then half a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and statistics towards the model's."""
    with torch.no_grad():
        for mean, value in zip(
            average.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)


def export(model: nn.Module, path: Path) -> None:
    """Write one ONNX file with batch 1, without the file names and stack traces of torch."""
    model = copy.deepcopy(model).eval().cpu()
    program = torch.onnx.export(
        model,
        (torch.zeros(1, 3, SIZE, SIZE),),
        input_names=["image"],
        output_names=["boxes", "scores"],
        opset_version=18,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    # torch's own optimization would fold the BatchNormalization into the convolutions
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    name_by_module(program.model.graph)
    proto = program.model_proto
    graph = proto.graph
    for part in (
        proto,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.initializer,
        *graph.input,
        *graph.output,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def name_by_module(graph: onnx_ir.Graph) -> None:
    """Name each node and its outputs after its module, as reports on layers then show them."""
    outputs = set(graph.outputs)
    for node in graph:
        *_, module, _ = ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])
        if node.outputs[0] not in outputs:
            node.outputs[0].name = f"{module}/{node.op_type}"
        node.name = node.outputs[0].name


def mean_average_precision(path: Path, scenes: list[Scene]) -> float:
    """mAP at an overlap of 0.5 over CLASSES, of the exported file in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    truth = []
    found = []
    for number, scene in enumerate(scenes, start=1):
        image = normalize(torch.from_numpy(scene.image[None])).numpy()
        outputs = dict(
            zip(
                ("boxes", "scores"), session.run(["boxes", "scores"], {"image": image}), strict=True
            )
        )
        answer = ssd_boxes(outputs, size=SIZE)
        truth += [entry(number, *pair) for pair in zip(scene.boxes, scene.labels, strict=True)]
        boxes = zip(answer["boxes"], answer["labels"], answer["scores"], strict=True)
        found += [
            {**entry(number, box, label), "score": float(score)} for box, label, score in boxes
        ]
    return coco_map(truth, found, len(scenes))


def entry(image: int, box: np.ndarray, label: int) -> dict[str, object]:
    left, top, right, bottom = (float(value) for value in box)
    area = (right - left) * (bottom - top)
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": int(label), "bbox": bbox, "area": area, "iscrowd": 0}


def coco_map(truth: list[dict[str, object]], found: list[dict[str, object]], images: int) -> float:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": [{**item, "id": number} for number, item in enumerate(truth, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        scorer = COCOeval(coco, coco.loadRes(found), "bbox")
        scorer.params.iouThrs = np.array([0.5])
        scorer.evaluate()
        scorer.accumulate()
    precision = scorer.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    start = time.monotonic()
    scenes = draw_split("train", options.scenes, options.seed, options.processes)
    unseen = draw_split("evaluate", options.evaluate, options.seed, options.processes)
    print(
        f"{len(scenes)} + {len(unseen)} scenes drawn in {time.monotonic() - start:.0f} s",
        flush=True,
    )
    device = torch.device(options.device)
    priors = torch.from_numpy(default_boxes(SIZE)).to(device)
    model = MobileNetSSD(len(CLASSES)).to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    steps = options.epochs * (len(scenes) // options.batch)
    descent = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=options.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        descent, partial(learning_rate, steps=steps, warmup=options.warmup)
    )
    step = 0
    start = time.monotonic()
    for epoch in range(1, options.epochs + 1):
        total = 0.0
        model.train()
        for images, boxes, labels in batches(scenes, options.batch, rng):
            wanted, classes = match(priors, boxes.to(device), labels.to(device), options.threshold)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16):
                offsets, logits = model(images.to(device))
            loss = multibox_loss(offsets.float(), logits.float(), wanted, classes)
            descent.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10)
            descent.step()
            schedule.step()
            follow(average, model, min(options.average, (1 + step) / (10 + step)))
            step += 1
            total += loss.item()
            if step % 50 == 0:
                print(
                    f"step {step}/{steps} loss {loss.item():.3f} {time.monotonic() - start:.0f} s",
                    flush=True,
                )
        mean = total * options.batch / len(scenes)
        print(f"epoch {epoch}: loss {mean:.3f} {time.monotonic() - start:.0f} s", flush=True)
        if epoch % options.every == 0 or epoch == options.epochs:
            export(average, options.output)
            print(
                f"epoch {epoch}: mAP@0.5 {mean_average_precision(options.output, unseen):.4f}",
                flush=True,
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name("mobilenet_ssd.onnx")
    )
    parser.add_argument("--scenes", type=int, default=15000, help="training scenes")
    parser.add_argument("--evaluate", type=int, default=500, help="scenes for the mAP")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument(
        "--every", type=int, default=1, help="epochs between two exports with their mAP"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--decay", type=float, default=1e-2, help="weight decay")
    parser.add_argument(
        "--average", type=float, default=0.998, help="decay of the averaged weights"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.45,
        help="overlap at which a default box learns an object",
    )
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    train(parse())
