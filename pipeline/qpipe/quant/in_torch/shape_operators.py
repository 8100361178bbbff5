"""Operators that move values, and those that compute shapes.

A network's file has a batch of 1; here there may be more samples. Where a shape in the file begins
with the 1 of a batch, that 1 stands for the batch.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from qpipe.quant.in_torch.elementwise_operators import torch_type
from qpipe.quant.in_torch.operator_table import Operation, Tensor, torch_operator

NEAREST_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil")
UNSUPPORTED_RESIZING = ("axes", "antialias", "keep_aspect_ratio_policy", "exclude_outside")
WHOLE = 1e-4  # by how much a size may miss a whole number


@torch_operator("Reshape")
def reshape(operation: Operation, x: Tensor, shape: Tensor) -> Tensor:
    """Reshape; 0 copies a size unless `allowzero` is set."""
    sizes = shape.tolist()
    if not operation.integer("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(_with_batch(operation, x, sizes))


def _with_batch(operation: Operation, x: Tensor, sizes: list[int]) -> list[int]:
    """Return sizes of an output, with the batch of the input where the file has 1 in both."""
    file_shape = operation.file_shape(0)
    if file_shape and file_shape[0] == 1 and sizes and sizes[0] == 1:
        return [x.shape[0], *sizes[1:]]
    return sizes


@torch_operator("Flatten")
def flatten(operation: Operation, x: Tensor) -> Tensor:
    """Flatten to a matrix, with the axes before `axis` as rows."""
    axis = operation.integer("axis", 1)
    if axis < 0:
        axis += x.ndim
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1)


@torch_operator("Transpose")
def transpose(operation: Operation, x: Tensor) -> Tensor:
    """Permute axes, by default into reverse order."""
    return x.permute(operation.integers("perm") or list(reversed(range(x.ndim))))


@torch_operator("Squeeze")
def squeeze(operation: Operation, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Remove axes of size 1."""
    axis_numbers = operation.integers("axes") if axes is None else axes.tolist()
    if axis_numbers is None:
        return x.squeeze()
    return x.squeeze([axis % x.ndim for axis in axis_numbers])


@torch_operator("Unsqueeze")
def unsqueeze(operation: Operation, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Add axes of size 1."""
    axis_numbers = (operation.integers("axes") or []) if axes is None else axes.tolist()
    dimensions = x.ndim + len(axis_numbers)
    for axis in sorted(axis % dimensions for axis in axis_numbers):
        x = x.unsqueeze(axis)
    return x


@torch_operator("Concat")
def concat(operation: Operation, *inputs: Tensor) -> Tensor:
    """Concatenate along an axis."""
    return torch.cat(inputs, operation.integer("axis"))


@torch_operator("Split")
def split(operation: Operation, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split along an axis, by default into equal parts."""
    axis = operation.integer("axis")
    size_list = operation.integers("split") if sizes is None else sizes.tolist()
    if size_list is None:
        count = len(operation.node.outputs)
        largest = -(-x.shape[axis] // count)
        size_list = [largest] * (count - 1)
        size_list.append(x.shape[axis] - largest * (count - 1))
    return tuple(torch.split(x, size_list, axis))


@torch_operator("Slice")
def slice_axes(
    operation: Operation,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Take a range of each axis, backward where a step is negative."""
    start_list = (operation.integers("starts") or []) if starts is None else starts.tolist()
    end_list = (operation.integers("ends") or []) if ends is None else ends.tolist()
    axis_list = operation.integers("axes") if axes is None else axes.tolist()
    step_list = [1] * len(start_list) if steps is None else steps.tolist()
    for index, (start, end, step) in enumerate(zip(start_list, end_list, step_list, strict=True)):
        axis = index if axis_list is None else axis_list[index]
        places = range(*slice(start, _slice_end(end, step), step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, min(places.start, x.shape[axis]), len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), device=x.device))
    return x


def _slice_end(end: int, step: int) -> int | None:
    """Return the end as Python takes it: none where it lies before the first element."""
    is_before_first = step < 0 and end < -(2**30)
    return None if is_before_first else end


@torch_operator("Gather")
def gather(operation: Operation, x: Tensor, indices: Tensor) -> Tensor:
    """Look up slices along an axis."""
    axis = operation.integer("axis") % max(x.ndim, 1)
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, wrapped.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@torch_operator("GatherElements")
def gather_elements(operation: Operation, x: Tensor, indices: Tensor) -> Tensor:
    """Look up elements along an axis."""
    axis = operation.integer("axis") % x.ndim
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@torch_operator("Expand")
def expand(operation: Operation, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast to a shape, and to its own."""
    sizes = _with_batch(operation, x, shape.tolist())
    return x.broadcast_to(torch.broadcast_shapes(x.shape, sizes))


@torch_operator("Tile")
def tile(_operation: Operation, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.tile(repeats.tolist())


@torch_operator("Pad")
def pad(
    operation: Operation,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """Pad with a constant, by reflection or with the edge; negative padding crops."""
    sizes = (operation.integers("pads") or []) if pads is None else pads.tolist()
    axis_list = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    before = dict(zip(axis_list, sizes[: len(axis_list)], strict=True))
    after = dict(zip(axis_list, sizes[len(axis_list) :], strict=True))
    mode = operation.text("mode", "constant")
    touched = [axis for axis in axis_list if before[axis] or after[axis]]
    first = 0 if mode == "constant" else min(touched, default=x.ndim)
    torch_pads: list[int] = []
    for axis in reversed(range(first, x.ndim)):
        torch_pads += [before.get(axis, 0), after.get(axis, 0)]
    if mode == "constant":
        number = operation.number("value") if value is None else float(value.item())
        return functional.pad(x, torch_pads, value=number)
    if not torch_pads:
        return x
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return functional.pad(x, torch_pads, mode=names[mode])


@torch_operator("DepthToSpace")
def depth_to_space(operation: Operation, x: Tensor) -> Tensor:
    """Move blocks of channels into the plane."""
    block = operation.integer("blocksize")
    batch, channels, height, width = x.shape
    depth = channels // block**2
    if operation.text("mode", "DCR") == "DCR":
        blocks = x.reshape(batch, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, depth, height * block, width * block)


@torch_operator("SpaceToDepth")
def space_to_depth(operation: Operation, x: Tensor) -> Tensor:
    """Move blocks of the plane into channels."""
    if operation.text("mode", "DCR") != "DCR":
        raise NotImplementedError("SpaceToDepth in column order")
    block = operation.integer("blocksize")
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // block, block, width // block, block)
    moved = blocks.permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(batch, channels * block**2, height // block, width // block)


@torch_operator("Resize")
def resize(
    operation: Operation,
    x: Tensor,
    _roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Resize the plane: to the nearest value or linearly, in the ways that torch knows."""
    mode = operation.text("mode", "nearest")
    coordinates = operation.text("coordinate_transformation_mode", "half_pixel")
    plane = _resized_plane(operation, x, scales, sizes)
    multiples = [new % old == 0 for new, old in zip(plane, x.shape[2:], strict=True)]
    rounding = operation.text("nearest_mode", "round_prefer_floor")
    is_floor = coordinates == "asymmetric" and rounding == "floor"
    is_repeating = coordinates == "half_pixel" and rounding in NEAREST_ROUNDINGS
    if mode == "nearest" and all(multiples) and (is_floor or is_repeating):
        return functional.interpolate(x, plane, mode="nearest")
    if mode == "linear" and x.ndim == 4 and coordinates == "half_pixel":
        return functional.interpolate(x, plane, mode="bilinear", align_corners=False)
    raise NotImplementedError(f"Resize with mode {mode} and coordinates {coordinates}")


def _resized_plane(
    operation: Operation, x: Tensor, scales: Tensor | None, sizes: Tensor | None
) -> list[int]:
    """Return the sizes of the resized axes, all but the first two; batch and channels stay."""
    if any(name in operation.node.attributes for name in UNSUPPORTED_RESIZING):
        raise NotImplementedError("Resize with attributes that torch has not")
    shape = list(x.shape)
    if sizes is not None and sizes.numel():
        new_shape = [shape[0], *sizes.tolist()[1:]]
    else:
        assert scales is not None
        exact = [size * scale for size, scale in zip(shape, scales.tolist(), strict=True)]
        new_shape = [round(size) for size in exact]
        if any(abs(size - new) > WHOLE for size, new in zip(exact, new_shape, strict=True)):
            raise NotImplementedError("Resize to sizes that are not whole")
    if new_shape[1] != shape[1] or len(new_shape) != x.ndim:
        raise NotImplementedError("Resize of channels")
    return new_shape[2:]


# ---- shapes


@torch_operator("Shape")
def shape_of(operation: Operation, x: Tensor) -> Tensor:
    """Return the shape, or a part of it."""
    end = operation.node.attributes.get_int("end")
    sizes = list(x.shape)[operation.integer("start") : end]
    return torch.tensor(sizes, dtype=torch.int64, device=x.device)


@torch_operator("Size")
def size_of(_operation: Operation, x: Tensor) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(x.numel(), device=x.device)


@torch_operator("ConstantOfShape")
def constant_of_shape(operation: Operation, shape: Tensor) -> Tensor:
    """Return a tensor of one value, by default 0."""
    value = operation.node.attributes.get_tensor("value")
    if value is None:
        return torch.zeros(shape.tolist(), device=shape.device)
    number = value.numpy().reshape(-1)[0].item()
    dtype = torch_type(int(value.dtype))
    return torch.full(shape.tolist(), number, dtype=dtype, device=shape.device)


@torch_operator("Range")
def arange(_operation: Operation, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Count from a number up to another."""
    numbers = (start.item(), limit.item(), delta.item())
    return torch.arange(*numbers, dtype=start.dtype, device=start.device)
