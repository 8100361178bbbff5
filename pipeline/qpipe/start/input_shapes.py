"""What import must be told of a network's inputs: shapes and values, as the samples have them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qpipe.recipe.stage_call import Call
from qpipe.stages.registry import Registry
from qpipe.start.feeding import sample_settings
from qpipe.start.feeding_choice import PICTURE_KINDS
from qpipe.start.network_facts import UNNAMED, Network, Picture, Tensor
from qpipe.start.network_family import Family, Size
from qpipe.start.picture_sizes import accepted_shape, common_size, rounded_up
from qpipe.start.sample_sources import SampleSource
from qpipe.start.scalings import Preferences
from qpipe.start.trial_run import trial_samples
from qpipe.types import Array

# height and width of pictures where nothing tells them
USUAL_SIDE = 224
USUAL_DETECTOR_SIDE = 640


def pinned_shapes(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> dict[str, list[int | str]]:
    """Return a shape for each input that one sample does not have as the file states it.

    It is that of the samples, with names for sizes in which they differ; pictures of files get the
    preferred size, or their common one, or else the usual one.
    """
    if not any(value.may_need_shape for value in network.inputs):
        return {}
    picture = network.picture
    if picture is not None and source.kind in PICTURE_KINDS:
        return {picture.name: [*_picture_shape(picture, network, source, preferences)]}
    shapes_by_input: dict[str, list[tuple[int, ...]]] = {}
    for feeds in _trial_feeds(network, source, preferences, plugins):
        for name, array in feeds.items():
            shapes_by_input.setdefault(name, []).append(array.shape)
    pinned: dict[str, list[int | str]] = {}
    for value in network.inputs:
        shape = _shape_of_samples(value, shapes_by_input[value.name])
        if value.may_need_shape and shape != list(value.shape):
            pinned[value.name] = shape
    return pinned


def _picture_shape(
    picture: Picture, network: Network, source: SampleSource, preferences: Preferences
) -> list[int]:
    """Return the shape of one picture, with sizes for the sides that the network leaves open.

    Pictures that are all of one size keep it where the network runs on it, made a little larger
    where it runs on that alone.
    """
    gives_tables = any(len(value.shape) == 3 for value in network.outputs)
    usual_side = USUAL_DETECTOR_SIDE if gives_tables else USUAL_SIDE
    sizes = [(usual_side, usual_side)]
    is_open = picture.height is None or picture.width is None
    folder = source.paths.get("images", source.paths.get("evaluation"))
    if preferences.size:
        sizes = [preferences.size]
    elif is_open and folder is not None:
        size = common_size(folder)
        if size is not None:
            sizes = [size, rounded_up(size), *sizes]
    shapes = [_shape_of_size(picture, size) for size in sizes]
    return accepted_shape(network.path, picture.name, shapes, picture.dtype)


def _shape_of_size(picture: Picture, size: Size) -> list[int]:
    """Return the shape of one picture; sides that the network fixes stay as they are."""
    height = picture.height or size[0]
    width = picture.width or size[1]
    if picture.layout == "NCHW":
        return [1, picture.channels, height, width]
    return [1, height, width, picture.channels]


def _shape_of_samples(value: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[int | str]:
    """Return the shape of an input that all samples have; open sizes that differ have names.

    Where the samples do not fit the input it is that of the first.
    """
    shape: list[int | str] = [*shapes[0]]
    if {len(other) for other in shapes} != {len(value.shape)}:
        return shape
    for axis, stated in enumerate(value.shape):
        differs = any(other[axis] != shape[axis] for other in shapes)
        if differs and isinstance(stated, str):
            shape[axis] = f"{value.name}_{axis}" if stated == UNNAMED else stated
    return shape


def _trial_feeds(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> Iterator[Mapping[str, Array]]:
    """Yield some samples as they would be fed, by input."""
    shape = [length if isinstance(length, int) else 1 for length in network.inputs[0].shape]
    unknown = Family("unknown", "")
    settings = sample_settings(network, unknown, shape, source, preferences)
    options = {**source.paths, **source.counts}
    for setting in settings:
        options[setting.name] = setting.value
    call = Call(plugins.stage("samples", source.kind), options)
    with tempfile.TemporaryDirectory() as folder:
        samples = trial_samples(call, Path(folder))
        for index in range(len(samples)):
            yield samples.feeds(index, {value.name: value.shape for value in network.inputs})


def deciding_values(
    network: Network, source: SampleSource, preferences: Preferences, plugins: Registry
) -> dict[str, int]:
    """Return the number that samples feed each whole number, where a network has branches.

    A sampling rate may decide which of them is taken.
    """
    numbers = [value for value in network.inputs if value.is_whole_number]
    if not numbers or "If" not in network.operators:
        return {}
    feeds = next(_trial_feeds(network, source, preferences, plugins))
    return {value.name: int(feeds[value.name].item()) for value in numbers}
