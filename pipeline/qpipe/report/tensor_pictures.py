"""A fed tensor as something to look at or listen to: a picture, a sound, a heat map or numbers."""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from qpipe.report.report_types import ViewKind
from qpipe.samples.preprocess import FLOATS
from qpipe.types import Array, Preprocessing

DEFAULT_SAMPLE_RATE = 16000  # Hz
MIN_SOUND_LENGTH = 1000  # values on one axis that are taken as a sound
MAX_CHANNELS = 8  # channels of a feature map that are drawn
MIN_SIDE = 96  # pixels; a smaller heat map is enlarged without smoothing
GAP = 2  # white pixels between the channels of a heat map
MAX_NUMBERS = 32  # values of a tensor that are printed
INT16_MIN = -32768
INT16_MAX = 32767
FLOAT_SOUND_PEAK = 2  # sounds that exceed it hold 16-bit values
COLORMAP = np.array(  # from low to high, as viridis
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64
)


@dataclass(frozen=True)
class Sound:
    """A sound of one channel, as 16-bit values."""

    sample_rate: int  # Hz
    values: Array

    def save(self, path: Path) -> None:
        """Write a .wav file."""
        with path.open("wb") as file:
            self.write(file)

    def write(self, stream: BinaryIO) -> None:
        """Write what a .wav file holds."""
        with wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sample_rate)
            file.writeframes(self.values.astype("<i2").tobytes())


@dataclass(frozen=True)
class TensorView:
    """A tensor in a form that suits it: one of image, sound and numbers."""

    kind: ViewKind
    suffix: str  # of the file
    image: Image.Image | None = None
    sound: Sound | None = None
    numbers: Array | None = None
    note: str = ""  # how to read it
    text: str = ""  # the first numbers, where there is neither picture nor sound

    def save(self, path: Path) -> None:
        """Write the file."""
        if self.image is not None:
            self.image.save(path)
        elif self.sound is not None:
            self.sound.save(path)
        elif self.numbers is not None:
            np.save(path, self.numbers, allow_pickle=False)


def view_tensor(
    tensor: Array, preprocessing: Preprocessing, sample_rate: int | None = None
) -> TensorView:
    """Return the view that suits a tensor as fed, [1, ...]."""
    array = tensor[0]
    if preprocessing.layout != "none" and array.ndim == 3:
        return _view_image(source_values(tensor, preprocessing))
    squeezed = np.squeeze(array)
    if squeezed.ndim == 1 and squeezed.size >= MIN_SOUND_LENGTH:
        values = source_values(tensor, preprocessing)
        return _view_sound(values.reshape(-1), sample_rate)
    if _is_image_channels_last(array):
        return _view_stretched_image(array)
    channels_last = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    if _is_image_channels_last(channels_last):
        return _view_stretched_image(channels_last)
    if _is_feature_map(squeezed):
        maps = squeezed if squeezed.ndim == 3 else squeezed[None]
        return _view_heat_map(maps)
    return TensorView("numbers", ".npy", numbers=array, text=_first_numbers(array))


def source_values(tensor: Array, preprocessing: Preprocessing) -> Array:
    """Return a fed tensor [1, ...] converted back to its source, without the batch axis.

    The inverse of preprocessing: channels last, times std, plus mean. float64, not rounded.
    """
    array: Array = tensor[0].astype(np.float64)
    if preprocessing.layout == "NCHW":
        array = np.moveaxis(array, 0, -1)
    if preprocessing.dtype in FLOATS:
        array = array * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    return array


def image_of_pixels(pixels: Array) -> Image.Image:
    """Return an image of values from 0 to 255, [H, W, 1 or 3]; what lies outside is clipped."""
    finite = np.nan_to_num(pixels)
    clipped = np.clip(np.rint(finite), 0, 255).astype(np.uint8)
    if clipped.shape[2] == 1:
        clipped = clipped[:, :, 0]
    return Image.fromarray(clipped)


# ---- what a tensor is


def _is_image_channels_last(array: Array) -> bool:
    """Whether an array [H, W, 3] may be an image, though its layout is not declared."""
    return array.ndim == 3 and array.shape[2] == 3 and min(array.shape[:2]) > 3


def _is_feature_map(array: Array) -> bool:
    """Whether an array [rows, columns] or [channels, rows, columns] can be drawn."""
    return array.ndim in (2, 3) and array.dtype.kind in "fiu" and min(array.shape[-2:]) > 1


# ---- views


def _view_image(pixels: Array) -> TensorView:
    """View pixels [H, W, channels] as a picture, or as a heat map where colors do not fit."""
    if pixels.shape[2] in (1, 3):
        return TensorView("picture", ".png", image_of_pixels(pixels))
    return _view_heat_map(np.moveaxis(pixels, 2, 0))


def _view_stretched_image(pixels: Array) -> TensorView:
    low = float(np.nanmin(pixels))
    high = float(np.nanmax(pixels))
    note = (
        "no mean, std and layout are declared; "
        f"shown from the lowest value, {low:.4g}, to the highest, {high:.4g}"
    )
    stretched = _scale_to_unit(pixels) * 255
    return TensorView("picture", ".png", image_of_pixels(stretched), note=note)


def _view_heat_map(maps: Array) -> TensorView:
    """View maps [channels, rows, columns] side by side, each over its own range."""
    drawn_maps = maps[:MAX_CHANNELS]
    tiles = [_apply_colormap(channel) for channel in drawn_maps]
    rows, columns = tiles[0].shape[:2]
    gap = np.full((rows, GAP, 3), 255, np.uint8)
    strips = [tiles[0]]
    for tile in tiles[1:]:
        strips += [gap, tile]
    joined = np.concatenate(strips, axis=1)
    factor = math.ceil(MIN_SIDE / min(rows, columns))
    enlarged = np.repeat(np.repeat(joined, factor, axis=0), factor, axis=1)
    note = "rows by columns as in the tensor"
    if len(maps) > MAX_CHANNELS:
        note += f", the first {MAX_CHANNELS} of {len(maps)} channels"
    note += f"; {_color_scale(drawn_maps)}"
    return TensorView("heat map", ".png", Image.fromarray(enlarged), note=note)


def _color_scale(maps: Array) -> str:
    """Describe which values the colors of each map stand for."""
    ranges = []
    for channel in maps:
        finite = np.nan_to_num(channel)
        ranges.append((finite.min(), finite.max()))
    if len(ranges) == 1:
        low, high = ranges[0]
        return f"dark is the lowest value, {low:.4g}, yellow the highest, {high:.4g}"
    spans = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in ranges)
    return f"dark is the lowest value of each channel, yellow the highest: {spans}"


def _apply_colormap(values: Array) -> Array:
    """Return uint8 colors [..., 3] of values, over their own range."""
    unit = _scale_to_unit(values)
    anchors = np.linspace(0, 1, len(COLORMAP))
    red, green, blue = (np.interp(unit, anchors, levels) for levels in COLORMAP.T)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _scale_to_unit(values: Array) -> Array:
    """Return values scaled to 0 to 1 over their own range; constant values become 0."""
    finite = np.nan_to_num(values.astype(np.float64))
    low = finite.min()
    span = float(finite.max() - low)
    return (finite - low) / span if span else np.zeros_like(finite)


def _view_sound(values: Array, sample_rate: int | None) -> TensorView:
    """View values as a sound: floats from -1 to 1, or 16-bit values where they go far beyond."""
    finite = np.nan_to_num(values)
    peak = np.abs(finite).max(initial=0)
    scaled = finite if peak > FLOAT_SOUND_PEAK else finite * INT16_MAX
    clipped = np.clip(np.rint(scaled), INT16_MIN, INT16_MAX)
    note = ""
    if not sample_rate:
        note = f"the sample rate is not known; written as {DEFAULT_SAMPLE_RATE} Hz"
    sound = Sound(sample_rate or DEFAULT_SAMPLE_RATE, clipped)
    return TensorView("sound", ".wav", sound=sound, note=note)


def _first_numbers(array: Array) -> str:
    values: list[object] = array.reshape(-1)[:MAX_NUMBERS].tolist()
    numbers = ", ".join(_format_number(value) for value in values)
    return f"{numbers}, ..." if array.size > MAX_NUMBERS else numbers


def _format_number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
