"""Samples changed at random, each in its own way, so that few of them teach more.

The teacher sees what the student sees, so nothing is mislabelled; but what could never be a sample
teaches nothing that is needed. Which changes make sense is for the user to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from qpipe.errors import StageError
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.types import Preprocessing
from qpipe_plugins.quantize.training.sample_batches import Feeds
from qpipe_plugins.quantize.training_extra import Change

CHANGES_OF_IMAGES = ("flip", "crop", "color")
PLANES = {"NCHW": (2, 3), "NHWC": (1, 2)}  # axes of height and width, with the batch axis in front
CROPPED = 0.1  # of height and width, at most
CONTRAST = 0.2  # by which the distance from the mean changes, at most
BRIGHTNESS = 0.2  # by which values move, in standard deviations, at most
SHIFTED = 0.1  # of the last axis, at most
NOISE = 0.02  # in standard deviations
MIXED = 0.5  # of another sample, at most

Transform = Callable[[Tensor, torch.Generator], Tensor]


class Augmentation:
    """Changes for each input of a network.

    Those of images apply to inputs that are images, `shift` and `noise` to all other inputs of
    floats. Raise StageError, which begins with `where`, for a change that applies to no input.
    """

    def __init__(
        self,
        changes: Sequence[Change],
        preprocessing: Mapping[str, Preprocessing],
        inputs: Sequence[str],
        where: str,
    ) -> None:
        if len(preprocessing) == len(inputs) == 1:  # their names need not agree
            preprocessing = dict.fromkeys(inputs, next(iter(preprocessing.values())))
        self._transforms: dict[str, list[Transform]] = {name: [] for name in inputs}
        self._mixes = "mix" in changes
        if self._mixes and any(how.dtype != "float32" for how in preprocessing.values()):
            raise StageError(
                f"{where}: augment has mix, but not all inputs of the samples are floats; "
                "leave it out"
            )
        for change in changes:
            if change == "mix":
                continue
            names = [
                name
                for name in inputs
                if name in preprocessing and _applies(change, preprocessing[name])
            ]
            if not names:
                kind = "an image" if change in CHANGES_OF_IMAGES else "floats other than an image"
                raise StageError(
                    f"{where}: augment has {change}, but no input of the samples is {kind}; "
                    "leave it out"
                )
            for name in names:
                axes = PLANES.get(preprocessing[name].layout, ())
                self._transforms[name].append(_transform(change, axes))

    def __call__(self, feeds: Feeds, generator: torch.Generator) -> Feeds:
        """Return a batch with each sample changed at random."""
        changed = dict(feeds)
        for name, transforms in self._transforms.items():
            if transforms and name in changed:
                samples = list(changed[name].split(1))
                for transform in transforms:
                    samples = [transform(sample, generator) for sample in samples]
                changed[name] = torch.cat(samples)
        return _mixed(changed, generator) if self._mixes else changed


def _applies(change: Change, how: Preprocessing) -> bool:
    is_image = how.layout in PLANES
    if change in CHANGES_OF_IMAGES:
        return is_image and (how.dtype == "float32" or change != "color")
    return not is_image and how.dtype == "float32"


def _transform(change: Change, axes: Sequence[int]) -> Transform:
    if change == "flip":
        return lambda x, generator: x.flip(axes[1]) if _uniform(generator) < 0.5 else x
    if change == "crop":
        return lambda x, generator: _moved(_moved(x, axes[0], generator), axes[1], generator)
    if change == "color":
        return _recolored
    if change == "shift":
        return lambda x, generator: torch.roll(x, _offset(x.shape[-1], SHIFTED, generator), -1)
    return _noisy


def _moved(x: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    """Return a picture moved along an axis; its edge fills what is left empty."""
    size = x.shape[axis]
    offset = _offset(size, CROPPED, generator)
    places = torch.arange(size, device=x.device) - offset
    return x.index_select(axis, places.clamp(0, size - 1))


def _recolored(x: Tensor, generator: torch.Generator) -> Tensor:
    mean = x.mean()
    contrast = 1 + CONTRAST * (2 * _uniform(generator) - 1)
    brightness = BRIGHTNESS * (2 * _uniform(generator) - 1) * x.std()
    return (((x - mean) * contrast) + mean + brightness).clamp(x.min(), x.max())


def _mixed(feeds: Feeds, generator: torch.Generator) -> Feeds:
    """Return samples that are each blended with the next one, half and half at most.

    What the teacher makes of them is all the student needs (Beyer et al. 2022, arXiv 2106.05237).
    """
    (count, *others) = {len(x) for x in feeds.values()}
    if others:
        return feeds
    parts = torch.tensor([MIXED * _uniform(generator) for _ in range(count)])
    mixed = {}
    for name, x in feeds.items():
        part = parts.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        mixed[name] = torch.lerp(x, x.roll(1, 0), part)
    return mixed


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return x + NOISE * x.std() * noise


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator).item())


def _offset(size: int, part: float, generator: torch.Generator) -> int:
    """Return a whole number of places, up to a part of a size, in either direction."""
    return round((2 * _uniform(generator) - 1) * part * size)
