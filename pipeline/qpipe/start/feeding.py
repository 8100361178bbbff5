"""How samples are fed to a network: what its input says, and the commonest where nothing says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpipe.errors import RecipeError
from qpipe.start.network_facts import Network, Picture, Tensor
from qpipe.start.network_family import Family, Size
from qpipe.start.sample_sources import Source, sound

Numbers = float | list[float]
OTHERS = "mean 127.5, std 127.5 (-1 to 1); mean 0, std 255 (0 to 1); mean 0, std 1 (0 to 255); or by channel, as "
IMAGENET: tuple[Numbers, Numbers] = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
OTHERS += f"ImageNet's mean {IMAGENET[0]}, std {IMAGENET[1]}"
FEW_COEFFICIENTS = 20  # of MFCC; mel spectra have more
HOP_S = 0.01


@dataclass(frozen=True)
class Setting:
    """One option of the samples stage, with what to say of it."""

    name: str
    value: Any
    note: str = ""
    check: str = ""  # what nobody but the user can know


@dataclass(frozen=True)
class Asked:
    """What the user said of preprocessing."""

    size: Size | None = None
    mean: Numbers | None = None
    std: Numbers | None = None


def settings(
    network: Network, guess: Family, shape: Sequence[int], source: Source, asked: Asked
) -> list[Setting]:
    """The options of the samples stage besides paths and counts; `shape` is that of the first input, all known."""
    own = [Setting(name, value) for name, value in source.options.items()]
    if source.kind in ("images", "coco"):
        return own + _pictures(network, guess, shape, source, asked)
    if source.kind == "wav":
        return own + _sound(network.inputs[0], shape, source.paths["evaluation"], asked)
    if asked.mean is not None or asked.std is not None:
        raise RecipeError(
            "--mean, --std: npz feeds arrays as they are; set mean and std by input in the recipe"
        )
    return own


# ---- pictures


def _pictures(
    network: Network, guess: Family, shape: Sequence[int], source: Source, asked: Asked
) -> list[Setting]:
    found = network.picture
    if found is None:
        inputs = ", ".join(map(str, network.inputs))
        hint = "give --samples npz:DIR with arrays as the network takes them"
        raise RecipeError(
            f"--samples {source.kind}: the network takes {inputs}, which are no pictures; {hint}"
        )
    height, width = size_of(found, shape)
    size: int | list[int] = height if height == width else [height, width]
    given = [Setting("size", size, "of the network's input")]
    if source.kind == "coco":
        fit = "letterbox" if guess.name == "yolo" else "stretch"
        given.append(
            Setting("fit", fit, "letterbox keeps proportions with grey around, stretch does not")
        )
    elif guess.name != "classifier" or height != width:
        given.append(
            Setting(
                "crop", "none", "the whole image, squeezed; center cuts a square out of its middle"
            )
        )
    colours = "grey" if found.channels == 1 else "RGB"
    order = "" if found.channels == 1 else "BGR for networks from OpenCV and Caffe"
    return [
        *given,
        *_scaling(network, found, guess, asked),
        Setting("layout", found.layout, "by the shape of the network's input"),
        Setting("colours", colours, check=order),
    ]


def size_of(picture: Picture, shape: Sequence[int]) -> Size:
    """Height and width of an input of this shape."""
    first = 2 if picture.layout == "NCHW" else 1
    return shape[first], shape[first + 1]


def _scaling(network: Network, found: Picture, guess: Family, asked: Asked) -> list[Setting]:
    mean, std, why = _usual(network, found, guess)
    mean = mean if asked.mean is None else asked.mean
    std = std if asked.std is None else asked.std
    if found.dtype == "uint8":
        return [
            Setting("mean", 0),
            Setting("std", 1),
            Setting("dtype", "uint8", "the network takes pixels as they are"),
        ]
    if asked.mean is not None and asked.std is not None:
        return [Setting("mean", mean, "in pixels of 0 to 255"), Setting("std", std)]
    check = f"the file does not say how pixels are scaled; this is {why}. Others: {OTHERS}"
    return [
        Setting("mean", mean, "the network gets (pixel - mean) / std", check),
        Setting("std", std),
    ]


def _usual(network: Network, found: Picture, guess: Family) -> tuple[Numbers, Numbers, str]:
    """Mean, std, and of what they are the commonest."""
    if network.scales_itself:
        return 0, 1, "for networks that shift or scale their input themselves, as this one does"
    if guess.name == "yolo" or found.channels == 1:
        return (
            0,
            255,
            "the commonest of such networks"
            if guess.name == "yolo"
            else "the commonest of grey pictures",
        )
    is_tensorflow = found.layout == "NHWC" or "tf2onnx" in network.producer or guess.classes == 1001
    if is_tensorflow or guess.name == "ssd":
        return 127.5, 127.5, "the commonest of networks from TensorFlow, and of SSD"
    return *IMAGENET, "the commonest of networks from PyTorch"


# ---- sound


def _sound(tensor: Tensor, shape: Sequence[int], folder: Path, asked: Asked) -> list[Setting]:
    found = sound(folder)
    if found is None:
        raise RecipeError(
            f"--samples wav: no .wav file in {folder} says its rate; convert them: ffmpeg -i IN OUT.wav"
        )
    rate, seconds = found
    axes, features, lengths = _axes(list(tensor.shape), shape)
    if not features and lengths.get("T"):
        seconds = lengths["T"] / rate
    given = [
        Setting("rate", rate, "Hz, of the first file"),
        Setting("seconds", seconds, "longer files are cut, shorter ones end in silence"),
        Setting("layout", axes, "T time, F features, C one channel"),
    ]
    if features:
        name = "mfcc" if lengths["F"] <= FEW_COEFFICIENTS else "log_mel"
        count = {"coefficients": lengths["F"]} if name == "mfcc" else {"mels": lengths["F"]}
        check = "features must be computed as in training: qpipe describe samples wav"
        given += [
            Setting("features", name, check=check),
            Setting("hop", round(HOP_S * rate), "samples, 10 ms"),
        ]
        given += [Setting(option, value) for option, value in count.items()]
    if isinstance(asked.mean, list) or isinstance(asked.std, list):
        raise RecipeError("--mean, --std: wav takes one number for each")
    scaled = {"mean": asked.mean, "std": asked.std}
    return given + [Setting(name, value) for name, value in scaled.items() if value is not None]


def _axes(
    written: Sequence[int | str], shape: Sequence[int]
) -> tuple[str, bool, Mapping[str, int]]:
    """The order of the axes behind the batch, whether features are among them, and how long those are."""
    lengths = list(shape[1:])
    if len(lengths) == 1:
        return "T", False, {"T": lengths[0] if isinstance(written[1], int) else 0}
    if len(lengths) == 2 and 1 in lengths:
        axes = "CT" if lengths[0] == 1 else "TC"
        return (
            axes,
            False,
            {"T": max(lengths) if isinstance(written[1 + axes.index("T")], int) else 0},
        )
    channel_first = len(lengths) == 3 and lengths[0] == 1
    channel_last = len(lengths) == 3 and lengths[0] != 1
    one, other = lengths[1:] if channel_first else lengths[:2]
    if len(lengths) > 3 or (channel_last and lengths[2] != 1):
        raise RecipeError(
            f"--samples wav: the network takes {list(shape)}, which is no sound; give --samples npz:DIR"
        )
    order = "TF" if other % 10 == 0 or other in (12, 13, 32, 64, 128) else "FT"
    if channel_last:
        return "TFC", True, {"T": one, "F": other}
    features = other if order == "TF" else one
    return (
        f"{'C' if channel_first else ''}{order}",
        True,
        {"T": one if order == "TF" else other, "F": features},
    )
