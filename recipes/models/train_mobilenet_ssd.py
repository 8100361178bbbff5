"""Train the MobileNetV2-SSD of this folder on drawn scenes and export it to ONNX.

    PYTHONPATH=plugins python recipes/models/train_mobilenet_ssd.py

Needs torch, numpy, onnx, onnxscript, onnxruntime and pycocotools. The defaults reproduce mobilenet_ssd.onnx.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from qpipe_plugins.postprocess.ssd_boxes import VARIANCES, default_boxes, ssd_boxes
from qpipe_plugins.samples.scenes import CLASSES, Scene, draw_scene, scene_index
from torch import Tensor, nn
from torch.nn import functional

SIZE = 192
BOXES_PER_CELL = 4

# expansion, channels, repeats, stride: MobileNetV2 of width 0.5, with more channels at stride 8, where small shapes are
STAGES = ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = convolution(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = convolution(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, image: Tensor) -> Tensor:
        result = self.project(self.depthwise(self.expand(image)))
        return image + result if self.residual else result


class Predictor(nn.Module):
    """SSDLite head for one map: depthwise 3x3, then pointwise to `values` numbers per default box."""

    def __init__(self, inputs: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.depthwise = convolution(inputs, inputs, 3, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, BOXES_PER_CELL * values, 1)

    def forward(self, features: Tensor) -> Tensor:
        values = self.pointwise(self.depthwise(features))
        batch, channels, rows, columns = values.shape
        return values.permute(0, 2, 3, 1).reshape(batch, rows * columns * BOXES_PER_CELL, self.values)


class MobileNetSSD(nn.Module):
    """Offsets [B, N, 4] and logits [B, N, classes + 1] from maps of stride 8, 16, 32 and 64."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [convolution(3, 16, 3, stride=2)]
        channels, taps = 16, []
        for expansion, outputs, repeats, stride in STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, stride if repeat == 0 else 1, expansion))
                channels = outputs
        blocks.append(convolution(channels, 320, 1))
        blocks.append(nn.Sequential(convolution(320, 128, 1), convolution(128, 128, 3, 2, 128), convolution(128, 256, 1)))
        self.blocks = nn.ModuleList(blocks)
        # the wide, rectified maps inside the block that halves the resolution, as SSDLite has it
        self.tapped = (6, 13)
        taps = [24 * 6, 48 * 6, 320, 256]
        self.offsets = nn.ModuleList(Predictor(width, 4) for width in taps)
        self.logits = nn.ModuleList(Predictor(width, classes + 1) for width in taps)
        initialize(self)

    def features(self, image: Tensor) -> list[Tensor]:
        maps = []
        for number, block in enumerate(self.blocks):
            if number in (7, 14):
                expanded = block.expand(image)
                maps.append(expanded)
                image = block.project(block.depthwise(expanded))
            else:
                image = block(image)
        return [*maps, self.last(image)]
