"""The options with which samples are fed to a network.

They follow from the network's input, and are the most common ones where it does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qpipe.errors import RecipeError
from qpipe.start.network_facts import Network, Picture, Tensor
from qpipe.start.network_family import Family, Size
from qpipe.start.plausible_feedings import plausible_fits
from qpipe.start.sample_sources import SampleSource, wav_format
from qpipe.start.scalings import IMAGENET, Preferences, preferred, usual_scaling

OTHER_SCALINGS = (
    "mean 127.5, std 127.5 (-1 to 1); mean 0, std 255 (0 to 1); mean 0, std 1 (0 to 255); "
    f"or by channel, as ImageNet's mean {IMAGENET.mean}, std {IMAGENET.std}"
)
MOST_COEFFICIENTS = 20  # of MFCC; mel spectra have more
HOP_S = 0.01
SQUEEZED_NOTE = "the whole image, squeezed; center cuts a square out of its middle"
CLASS_ORDER_NOTE = "classes are named by numbers: 2 before 10; name puts 10 before 2"
USUAL_FEATURE_COUNTS = (12, 13, 32, 64, 128)  # and multiples of 10


@dataclass(frozen=True)
class Setting:
    """One option of the samples stage, with comments for the recipe."""

    name: str
    value: Any
    note: str = ""
    check: str = ""  # what only the user can know


def sample_settings(
    network: Network,
    guess: Family,
    shape: Sequence[int],
    source: SampleSource,
    preferences: Preferences,
) -> list[Setting]:
    """Return the options of the samples stage, without paths and counts.

    `shape` is that of the first input, without open dimensions.
    """
    settings = [Setting(name, value) for name, value in source.options.items()]
    if source.labels is not None and source.labels.has_two_orders:
        settings.append(Setting("class_order", "number", CLASS_ORDER_NOTE))
    if source.kind in ("images", "coco"):
        return settings + _picture_settings(network, guess, shape, source, preferences)
    if source.kind == "wav":
        folder = source.paths["evaluation"]
        return settings + _sound_settings(network.inputs[0], shape, folder, preferences)
    if preferences.mean is not None or preferences.std is not None:
        fix = "set mean and std by input in the recipe"
        raise RecipeError(f"--mean, --std: npz feeds arrays as they are; {fix}")
    return settings


# ---- pictures


def _picture_settings(
    network: Network,
    guess: Family,
    shape: Sequence[int],
    source: SampleSource,
    preferences: Preferences,
) -> list[Setting]:
    picture = network.picture
    if picture is None:
        inputs = ", ".join(map(str, network.inputs))
        fix = "give --samples npz:DIR with arrays as the network takes them"
        raise RecipeError(
            f"--samples {source.kind}: the network takes {inputs}, which are no pictures; {fix}"
        )
    return [
        *_fit_settings(picture, guess, shape, source),
        *_scaling_settings(network, picture, guess, preferences),
        Setting("layout", picture.layout, "by the shape of the network's input"),
        _color_setting(picture),
    ]


def _fit_settings(
    picture: Picture, guess: Family, shape: Sequence[int], source: SampleSource
) -> list[Setting]:
    height, width = picture_size(picture, shape)
    size: int | list[int] = height if height == width else [height, width]
    settings = [Setting("size", size, "of the network's input")]
    fit = plausible_fits(source.kind, guess, (height, width))[0]
    if fit.option == "fit":
        note = "letterbox keeps proportions with grey around, stretch does not"
        settings.append(Setting("fit", fit.value, note))
    elif fit.value == "none":
        settings.append(Setting("crop", "none", SQUEEZED_NOTE))
    return settings


def _color_setting(picture: Picture) -> Setting:
    if picture.channels == 1:
        return Setting("color_order", "grey")
    return Setting("color_order", "RGB", check="BGR for networks from OpenCV and Caffe")


def picture_size(picture: Picture, shape: Sequence[int]) -> Size:
    """Return height and width of an input of this shape."""
    first = 2 if picture.layout == "NCHW" else 1
    return shape[first], shape[first + 1]


def _scaling_settings(
    network: Network, picture: Picture, guess: Family, preferences: Preferences
) -> list[Setting]:
    if picture.dtype == "uint8":
        return [
            Setting("mean", 0),
            Setting("std", 1),
            Setting("dtype", "uint8", "the network takes pixels as they are"),
        ]
    usual = usual_scaling(network, picture, guess)
    scaling = preferred(usual.scaling, preferences)
    if preferences.mean is not None and preferences.std is not None:
        return [
            Setting("mean", scaling.mean, "in pixels of 0 to 255"),
            Setting("std", scaling.std),
            *_type_settings(picture.dtype),
        ]
    check = (
        f"the file does not tell how pixels are scaled; this is {usual.reason}. "
        f"Others: {OTHER_SCALINGS}"
    )
    return [
        Setting("mean", scaling.mean, "the network gets (pixel - mean) / std", check),
        Setting("std", scaling.std),
        *_type_settings(picture.dtype),
    ]


def _type_settings(dtype: str) -> list[Setting]:
    """Return the option of an input that is not float32, as the samples are by default."""
    return [] if dtype == "float32" else [Setting("dtype", dtype, "of the network's input")]


# ---- sound


def _sound_settings(
    tensor: Tensor, shape: Sequence[int], folder: Path, preferences: Preferences
) -> list[Setting]:
    sound = wav_format(folder)
    if sound is None:
        reason = f"no .wav file in {folder} states its rate"
        raise RecipeError(f"--samples wav: {reason}; convert them: ffmpeg -i IN OUT.wav")
    if isinstance(preferences.mean, list) or isinstance(preferences.std, list):
        raise RecipeError("--mean, --std: wav takes one number for each")
    axes = _sound_axes(tensor.shape, shape)
    seconds = sound.seconds
    if not axes.features and axes.samples:
        seconds = axes.samples / sound.rate
    settings = [
        Setting("rate", sound.rate, "Hz, of the first file"),
        Setting("seconds", seconds, "longer files are cut, shorter ones end in silence"),
        Setting("layout", axes.order, "T time, F features, C one channel"),
    ]
    if axes.features:
        settings += _feature_settings(axes.features, sound.rate)
    if preferences.mean is not None:
        settings.append(Setting("mean", preferences.mean))
    if preferences.std is not None:
        settings.append(Setting("std", preferences.std))
    return settings + _type_settings(tensor.dtype)


def _feature_settings(count: int, rate: int) -> list[Setting]:
    name = "log_mel"
    count_option = "mels"
    if count <= MOST_COEFFICIENTS:
        name = "mfcc"
        count_option = "coefficients"
    check = "features must be computed as in training: qpipe describe samples wav"
    return [
        Setting("features", name, check=check),
        Setting("hop", round(HOP_S * rate), "samples, 10 ms"),
        Setting(count_option, count),
    ]


class _SoundAxes(NamedTuple):
    order: str  # of the axes behind the batch: T time, F features, C one channel
    samples: int = 0  # length of the time axis where it is fixed and there are no features
    features: int = 0  # number of features; 0 where the network takes samples


def _sound_axes(written: Sequence[int | str], shape: Sequence[int]) -> _SoundAxes:
    """Return the axes of an input; `written` is its shape with open dimensions, `shape` without."""
    lengths = list(shape[1:])
    if len(lengths) == 1:
        return _SoundAxes("T", samples=lengths[0] if isinstance(written[1], int) else 0)
    if len(lengths) == 2 and 1 in lengths:
        order = "CT" if lengths[0] == 1 else "TC"
        is_fixed = isinstance(written[1 + order.index("T")], int)
        return _SoundAxes(order, samples=max(lengths) if is_fixed else 0)
    if len(lengths) == 3 and lengths[0] == 1:
        return _feature_axes(lengths[1], lengths[2], prefix="C")
    if len(lengths) == 3 and lengths[2] == 1:
        return _SoundAxes("TFC", features=lengths[1])
    if len(lengths) == 2:
        return _feature_axes(lengths[0], lengths[1])
    reason = f"the network takes {list(shape)}, which is no sound"
    raise RecipeError(f"--samples wav: {reason}; give --samples npz:DIR")


def _feature_axes(first: int, second: int, prefix: str = "") -> _SoundAxes:
    """Return which of two axes is that of features: the last one if its length is usual."""
    if second % 10 == 0 or second in USUAL_FEATURE_COUNTS:
        return _SoundAxes(f"{prefix}TF", features=second)
    return _SoundAxes(f"{prefix}FT", features=first)
