"""ONNX files damaged in thousands of ways: import reads them or refuses them in one line, soon, in little memory."""

from __future__ import annotations

import functools
import random
import resource
import signal
import struct
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto

from networks import NETWORKS
from qpipe.engine import stage_results, worker
from qpipe.errors import QpipeError
from qpipe_plugins.models.onnx_file import onnx_file

CASES, PARTS = 4000, 8
LONGEST_S, PATIENCE_S = (
    5.0,
    90.0,
)  # of the processor, for one case; of the clock, for one that waits for ever
MEMORY = 1 << 30  # bytes above what the bare process has
DRESSED = """<ir_version: 8, opset_import: ["" : 9, "own" : 1]>
net (float[N, 3, 8, 8] image) => (float[N, 4] logits)
<float[4, 3, 3, 3] w, float[4] gamma = {1, 1, 1, 1}, float[4] beta = {0, 0, 0, 0}, float[4] mean = {0, 0, 0, 0},
 float[4] variance = {1, 1, 1, 1}, float[4, 4] v = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}> {
  x = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w)
  y = BatchNormalization (x, gamma, beta, mean, variance)
  z = Clip <min = 0.0, max = 6.0> (y)
  s, s2 = Dropout (z)
  k = own.twice (s)
  pooled = GlobalAveragePool (k)
  shape = Shape (pooled) zero = Constant <value = int64[1] {0}> () rest = Constant <value = int64[1] {-1}> ()
  first = Gather <axis = 0> (shape, zero) wanted = Concat <axis = 0> (first, rest)
  flat = Reshape (pooled, wanted)
  logits = Gemm <transB = 1, alpha = 0.5> (flat, v, beta)
}
<domain: "own", opset_import: ["" : 9]>
twice (x) => (y) { y = Add (x, x) }"""

OPERATORS = """<ir_version: 10, opset_import: ["" : 21]>
net (float[1, 4, 8, 8] image, int64[1, 5] ids, float[1, 1, 64] wave) => (float[1, n] logits, float[1, m] more)
<int64[2] axes = {2, 3}, int64[1] last = {3}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, int64[1] k = {2},
 float[4] scales = {1, 1, 2, 2}, int64[4] sizes = {1, 4, 4, 4}, int64[2] two = {1, 8}, int64[1] start = {0},
 int64[1] end = {2}, int64[1] step = {1}, int64 depth = {9}, float[2] onoff = {0, 1}, float s = {0.1}, uint8 z = {3},
 int64 frame = {16}, int64 hop = {8}, int64 low = {0}, int64 high = {6}, int64 one = {1}, int64[4] grown = {1, 4, 2, 2},
 int64[2] splits = {2, 2}, float[4] ones = {1, 1, 1, 1}, float[4] zeros = {0, 0, 0, 0}, int64[2] four = {1, 4},
 int64[3] signal = {1, 64, 1}> {
  a = MaxPool <kernel_shape = [2, 2], strides = [2, 2], dilations = [1, 1], ceil_mode = 1> (image)
  b = AveragePool <kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]> (a)
  c = LpPool <kernel_shape = [2, 2], p = 2> (b)
  d = ConvTranspose <group = 1, strides = [2, 2], output_padding = [1, 1], dilations = [1, 1]> (c, t)
  e = Pad <mode = "constant"> (d, pads)
  f = Resize <mode = "nearest"> (e, , scales)
  g = Resize <mode = "linear"> (f, , , sizes)
  g1, g2 = Split <axis = 1> (g, splits)
  g3, g4 = Split <axis = 1, num_outputs = 2> (g)
  h = Concat <axis = 1> (g1, g3)
  i = DepthToSpace <blocksize = 2> (h)
  j = SpaceToDepth <blocksize = 2> (i)
  l = Transpose <perm = [0, 2, 3, 1]> (j)
  o = Slice (l, start, end, last, step)
  p = LRN <size = 3> (j)
  q = GridSample (p, grid)
  u = InstanceNormalization <epsilon = 0.1> (q, ones, zeros)
  v = Tile (u, grown)
  y = QuantizeLinear <axis = 1> (q, s, z) y2 = DequantizeLinear (y, s, z)
  aa, ab = TopK <axis = 3> (y2, k)
  words2 = Gather <axis = 0> (words, ids)
  lstm, last_h, last_c = LSTM <hidden_size = 3> (words2, w, r)
  hot = OneHot <axis = -1> (ids, depth, onoff)
  eye = EyeLike <k = 1> (words) ranged = Range (low, high, one) summed = CumSum (ranged, low)
  squeezed = ReduceMean <keepdims = 0> (aa, axes)
  waved = Reshape (wave, signal) framed = STFT (waved, hop, , frame)
  window = HannWindow (frame) noise = RandomNormal <shape = [2, 2]> ()
  expanded = Expand (squeezed, four)
  made = ConstantOfShape <value = float[1] {2}> (two)
  product = Einsum <equation = "ij,kj->ik"> (made, made)
  logits = Flatten (expanded)
  more = Flatten (hot)
}"""


def dressed() -> onnx.ModelProto:
    """All that import does something about: an open batch, an old opset, a function, external data, things to fold."""
    model = onnx.parser.parse_model(DRESSED)
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "w"] or [
        model.graph.initializer.add()
    ]
    weight.CopyFrom(TensorProto(name="w", dims=[4, 3, 3, 3], data_type=TensorProto.FLOAT))
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "432")):
        weight.external_data.add(key=key, value=value)
    return model


def operators() -> onnx.ModelProto:
    """Operators with attributes and constants that decide shapes."""
    model = onnx.parser.parse_model(OPERATORS)
    shapes = {
        "t": (4, 2, 2, 2),
        "words": (7, 3),
        "w": (1, 12, 3),
        "r": (1, 12, 3),
        "grid": (1, 4, 4, 2),
    }
    for name, shape in shapes.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        )
    return model


SOUND: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "dressed": dressed,
    "operators": operators,
    **{
        name: NETWORKS[name]
        for name in ("mobilenet_v3_divided", "branches", "recurrent", "yolo", "twins")
    },
}
INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    16,
    17,
    64,
    2**16,
    10**6,
    10**9,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
    -(2**31),
    -(2**63),
)
NUMBERS = (0.0, -1.0, 1.5, 1e38, float("inf"), float("-inf"), float("nan"), 1e-40)
TEXTS = (
    "", "x", "image", "\0", "\n", "../x", "/etc/passwd", "a" * 10_000, "é", "com.microsoft", "ai.onnx.ml", "Conv", "If",
    "Loop", "Identity", "Constant", "Reshape", "ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Pad", "Einsum",
    "SequenceAt", "Optional", "QuantizeLinear", "BatchNormalization", "Gemm", "Shape", "Gather", "Concat", "own",
    "twice", "N", "location", "offset", "length", "w.bin", "-1", "99999999999", "1e3",
)  # fmt: skip


# ---- ways to damage a file's bytes


def bytes_changed(raw: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        raw[chance.randrange(len(raw))] = chance.randrange(256)


def bits_flipped(raw: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 8))):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def cut_short(raw: bytearray, chance: random.Random) -> None:
    del raw[chance.randrange(len(raw)) :]


def cut_out(raw: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(raw))
    del raw[at : at + chance.choice((1, 2, 16, 256))]


def doubled(raw: bytearray, chance: random.Random) -> None:
    at, length = chance.randrange(len(raw)), chance.choice((1, 2, 16, 256))
    raw[at:at] = raw[at : at + length]


def zeroed(raw: bytearray, chance: random.Random) -> None:
    at, length = chance.randrange(len(raw)), chance.choice((4, 16, 256))
    raw[at : at + length] = bytes(min(length, len(raw) - at))


BYTE_WAYS = (bytes_changed, bytes_changed, bits_flipped, cut_short, cut_out, doubled, zeroed)


# ---- ways to damage its fields


def messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from messages(inner)


def names_in(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in (*node.input, *node.output)] + list(TEXTS)


def odd(field: FieldDescriptor, model: onnx.ModelProto, chance: random.Random) -> Any:
    """A value of the field's type that is seldom meant."""
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice(NUMBERS)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(names_in(model))
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.randrange(-1, 30)
    bound = (
        2**31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 2**63
    )
    least = (
        0 if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64) else -bound
    )
    return chance.choice([number for number in INTEGERS if least <= number < bound])


def field_changed(model: onnx.ModelProto, chance: random.Random) -> None:
    """One field of one message set, cleared, cut, doubled, or taken from a message of the same kind."""
    message = chance.choice(list(messages(model)))
    given = [field for field, _ in message.ListFields()]
    field = chance.choice(
        given if given and chance.random() < 0.8 else list(message.DESCRIPTOR.fields)
    )
    repeated, nested = field.is_repeated, field.message_type is not None
    if chance.random() < 0.15:
        message.ClearField(field.name)
    elif nested and not repeated:
        _copied(getattr(message, field.name), model, chance)
    elif not repeated:
        _set(message, field, model, chance)
    else:
        _list_changed(getattr(message, field.name), field, model, chance)


def _set(
    message: Message, field: FieldDescriptor, model: onnx.ModelProto, chance: random.Random
) -> None:
    try:
        setattr(message, field.name, odd(field, model, chance))
    except (ValueError, TypeError):  # an enumeration without that number
        message.ClearField(field.name)


def _copied(message: Message, model: onnx.ModelProto, chance: random.Random) -> None:
    others = [other for other in messages(model) if other.DESCRIPTOR is message.DESCRIPTOR]
    copy = type(message)()
    if others:
        copy.CopyFrom(chance.choice(others))
    message.CopyFrom(copy)


def _list_changed(
    values: Any, field: FieldDescriptor, model: onnx.ModelProto, chance: random.Random
) -> None:
    what = chance.choice(("cut", "double", "add", "change", "change", "swap"))
    at = chance.randrange(len(values)) if len(values) else 0
    if what == "cut" and len(values):
        del values[at]
    elif field.message_type is not None:
        if what in ("double", "swap") and len(values):
            values.add().CopyFrom(values[at])
        else:
            _copied(values[at] if what == "change" and len(values) else values.add(), model, chance)
    elif what == "double" and len(values):
        values.extend([values[at]] * chance.choice((1, 10)))
    elif what == "swap" and len(values):
        other = chance.randrange(len(values))
        values[at], values[other] = values[other], values[at]
    elif what == "change" and len(values):
        values[at] = odd(field, model, chance)
    else:
        values.append(odd(field, model, chance))


def attribute_changed(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(list(nodes(model)))
    if not node.attribute or chance.random() < 0.2:
        node.attribute.append(
            onnx.helper.make_attribute(chance.choice(("axis", "group", "kernel_shape", "to")), 3)
        )
    attribute = chance.choice(node.attribute)
    if chance.random() < 0.3:
        attribute.type = chance.randrange(0, 15)
    elif attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(INTEGERS)
    else:
        attribute.i, attribute.f = chance.choice(INTEGERS), chance.choice(NUMBERS)


def nodes(message: Message) -> Iterator[onnx.NodeProto]:
    return (inner for inner in messages(message) if isinstance(inner, onnx.NodeProto))


def operator_changed(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(list(nodes(model)))
    node.op_type = chance.choice([other.op_type for other in nodes(model)] + list(TEXTS))


def input_rewired(model: onnx.ModelProto, chance: random.Random) -> None:
    """Often a cycle, or a value that is not there yet."""
    node = chance.choice([node for node in nodes(model) if node.input])
    node.input[chance.randrange(len(node.input))] = chance.choice(names_in(model))


def opset_changed(model: onnx.ModelProto, chance: random.Random) -> None:
    entry = chance.choice(model.opset_import)
    if chance.random() < 0.2:
        model.opset_import.add(
            domain=chance.choice(("", "ai.onnx", "own", "x")), version=chance.choice(INTEGERS)
        )
    elif chance.random() < 0.2:
        entry.domain = chance.choice(TEXTS)
    else:
        entry.version = chance.choice(
            (0, -1, 1, 5, 8, 10, 13, 16, 18, 21, 25, 26, 99, 10**9, 2**62)
        )


def weight_changed(model: onnx.ModelProto, chance: random.Random) -> None:
    """Dimensions that the data does not fill, types it does not have, places outside of the folder."""
    tensor = chance.choice([inner for inner in messages(model) if isinstance(inner, TensorProto)])
    what = chance.choice(("dims", "dims", "rank", "type", "external", "external", "data"))
    if what == "dims" and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(INTEGERS)
    elif what in ("dims", "rank"):
        tensor.dims.extend([chance.choice(INTEGERS)] * chance.choice((1, 2, 30)))
    elif what == "type":
        tensor.data_type = chance.randrange(-1, 30)
    elif what == "data":
        tensor.raw_data = bytes(chance.choice((0, 1, 3, 4, 1000)))
    else:
        tensor.data_location = TensorProto.EXTERNAL
        place = chance.choice(
            (
                "w.bin",
                "../w.bin",
                "/etc/passwd",
                "/dev/zero",
                "link",
                "",
                ".",
                "..",
                "a\0b",
                "x" * 5000,
            )
        )
        size = chance.choice(("0", "-1", "432", "99999999999999999999", "x", "", "1e3", "4"))
        for key, value in (
            ("location", place),
            ("offset", size),
            (chance.choice(TEXTS), size),
            ("length", size),
        ):
            tensor.external_data.add(key=key, value=value)


def shape_changed(model: onnx.ModelProto, chance: random.Random) -> None:
    value = chance.choice(
        [inner for inner in messages(model) if isinstance(inner, onnx.ValueInfoProto)]
    )
    dims = value.type.tensor_type.shape.dim
    what = chance.choice(("size", "size", "symbol", "rank", "type", "none", "sequence"))
    if what in ("size", "symbol") and dims:
        dimension = chance.choice(dims)
        dimension.dim_value = chance.choice(INTEGERS)
        if what == "symbol":
            dimension.dim_param = chance.choice(TEXTS)
    elif what == "type":
        value.type.tensor_type.elem_type = chance.randrange(-1, 30)
    elif what == "none":
        value.type.tensor_type.ClearField("shape")
    elif what == "sequence":
        value.type.CopyFrom(onnx.helper.make_sequence_type_proto(value.type))
    else:
        dims.add(dim_value=chance.choice(INTEGERS))


def nested(model: onnx.ModelProto, chance: random.Random) -> None:
    """A branch in a branch in a branch."""
    graph = model.graph
    for depth in range(chance.choice((3, 20, 28))):
        node = onnx.helper.make_node(
            "If", ["image"], [f"deep{depth}"], then_branch=graph, else_branch=onnx.GraphProto()
        )
        graph = onnx.GraphProto(
            name=f"g{depth}", node=[node], output=[onnx.ValueInfoProto(name=f"deep{depth}")]
        )
    model.graph.node.append(graph.node[0])


FIELD_WAYS = (
    *3 * [field_changed], *2 * [attribute_changed], operator_changed, input_rewired, opset_changed,
    *2 * [weight_changed], shape_changed,
)  # fmt: skip


@functools.cache
def sound(name: str) -> bytes:
    return SOUND[name]().SerializeToString()


def damaged(seed: int) -> bytes:
    """One of the sound networks with one to three things wrong with it, in its bytes or its fields."""
    chance = random.Random(seed)
    raw = sound(chance.choice(["dressed", "operators", "operators", *SOUND]))
    if chance.random() < 0.3:
        broken = bytearray(raw)
        chance.choice(BYTE_WAYS)(broken, chance)
        return bytes(broken)
    model = onnx.load_model_from_string(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        with suppress(
            IndexError, DecodeError
        ):  # nothing of that sort is left in it, or it would be too deep to be read
            chance.choice(FIELD_WAYS if chance.random() < 0.99 else (nested,))(model, chance)
    return model.SerializeToString()


# ---- in a process of its own, which may die of it


def imported(raw: bytes, folder: Path) -> str:
    """What comes of a file: "read", or why it was refused; "broke ..." is a fault of ours."""
    path = folder / "net.onnx"
    path.write_bytes(raw)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            stage_results.write("import", onnx_file(path=path), Path(out))
    except QpipeError as error:
        said = str(error)
        return (
            f"refused: {said.removeprefix(f'{path}: ')}"
            if said.isprintable()
            else f"broke: it says {said!r}"
        )
    except Exception:  # noqa: BLE001  (what is looked for)
        return f"broke: {traceback.format_exc()}"
    return "read"


def child(connection: Connection, folder: Path) -> None:
    used = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        raw = connection.recv()
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)  # SIGPROF ends it
        came = imported(raw, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(came)


class Imports:
    """Imports damaged files one after the other, in a child that is replaced when one kills it or takes too long."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, None
        # of one server for all: another preload would have every step of other tests import anew
        self.context = worker.forkserver()
        (folder / "w.bin").write_bytes(struct.pack("<108f", *range(108)))
        (folder / "link").symlink_to("/etc/passwd")

    def __call__(self, raw: bytes) -> str:
        if self.process is None:
            self.connection, theirs = self.context.Pipe()
            self.process = self.context.Process(
                target=child, args=(theirs, self.folder), daemon=True
            )
            self.process.start()
            theirs.close()
        try:
            self.connection.send(raw)
            if self.connection.poll(PATIENCE_S):
                return str(self.connection.recv())
            reason = f"hung: no answer within {PATIENCE_S} s"
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode or 0
            reason = f"died: {signal.Signals(-status).name if status < 0 else status}"
        self.close()
        return reason

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.join()
        self.process = None


@pytest.fixture
def imports(tmp_path: Path) -> Iterator[Imports]:
    made = Imports(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("name", SOUND)
def test_what_is_damaged_here_is_sound_to_begin_with(name: str, imports: Imports) -> None:
    assert imports(sound(name)) == "read"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_network_is_read_or_refused_in_one_line(part: int, imports: Imports) -> None:
    came = {seed: imports(damaged(seed)) for seed in range(part, CASES, PARTS)}
    wrong = {
        seed: outcome
        for seed, outcome in came.items()
        if not outcome.startswith(("read", "refused: "))
    }
    assert not wrong, "\n".join(f"seed {seed}: {outcome}" for seed, outcome in wrong.items())
    kinds = Counter(outcome.partition(":")[0] for outcome in came.values())
    assert min(kinds["read"], kinds["refused"]) > CASES / PARTS / 20, kinds
