"""Whatever is wrong with what a user gives: one line that says so, exit status 2, from `qpipe plan` on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from PIL import Image

from models import conv_net
from qpipe.recipe import recipe
from shell import Shell

if TYPE_CHECKING:
    from conftest import Sshd

RECIPE = """name: r
samples: {images: {calibration: calibration, evaluation: evaluation, size: 16, mean: 127.5, std: 127.5}}
models:
  m: {onnx: {path: m.onnx}}
schemes:
  float32: []
  int8: [symmetric]
measure: [latency, size]
devices: [board]
pareto: {latency_ms: min, size_mb: min}
"""
DEVICES = "board: 'null'\n"
PLUGIN = '''import qpipe

def mine(model, *, bits: int = 8):
    """Quantize nothing."""
    return model

@qpipe.hookimpl
def register_stages(register):
    register("quantize", mine)
'''
NAMES = "is not allowed; use letters, digits, '.', '_' and '-'"
ROOT = os.getuid() == 0


class Spoilt(Shell):
    """The command in a folder with a recipe that works."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        super().__init__(monkeypatch, capsys)
        self.folder = folder
        (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        (folder / "devices.yaml").write_text(DEVICES, encoding="utf-8")
        ir.save(conv_net(), folder / "m.onnx")
        random = np.random.default_rng(0)
        for part in ("calibration", "evaluation"):
            (folder / part).mkdir()
            for number in range(2):
                pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / f"{number}.png")

    def edit(self, old: str, new: str, name: str = "recipe.yaml") -> None:
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def tell(self, line: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of `qpipe LINE`."""
        return self.ended(*shlex.split(line))

    def refused(self, line: str, status: int = 2) -> str:
        """The one line that is said of it, without `qpipe: `; nothing else comes of it."""
        before = self.files()
        ended, out, err = self.tell(line)
        said = [
            each for each in err.splitlines() if each.startswith("qpipe: ")
        ]  # others tell of progress
        assert ended == status, f"{ended}\n{out}\n{err}"
        assert len(said) == 1, err
        assert not out
        assert self.files() == before, "something was left behind"
        assert not list(self.folder.glob(".qpipe/cache/aside/*")), (
            "something half-written was left behind"
        )
        return said[0].removeprefix("qpipe: ")

    def files(self) -> dict[str, int]:
        """All that lies there, but what qpipe may write."""
        found = (
            path
            for path in self.folder.rglob("*")
            if ".qpipe" not in path.relative_to(self.folder).parts[:1]
        )
        return {str(path.relative_to(self.folder)): path.lstat().st_size for path in found}


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Spoilt:
    monkeypatch.chdir(tmp_path)
    return Spoilt(tmp_path, monkeypatch, capsys)


def test_the_recipe_that_is_spoilt_here_is_good(qpipe: Spoilt) -> None:
    for line in ("plan recipe.yaml", "run recipe.yaml"):
        status, _, err = qpipe.tell(line)
        assert status == 0, err


# ---- the recipe's text: (what is replaced, by what, what is said)

KEYS = ", ".join(recipe.KEYS)
UNFIT = "not a directory; give another path, or check its permissions"
BOMB = "&a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(9 * [f'*{old}'])}]\n" for old, new in ("ab", "bc", "cd", "de", "ef")
)
TEXTS: dict[str, tuple[str, str, str]] = {
    "not YAML": ("models:", "models: [", "recipe.yaml:5: not YAML: expected ',' or ']', but got '<scalar>'; "
                 "check indentation, colons and tabs"),
    "a tab": ("  m:", "\tm:", "recipe.yaml:4: not YAML: found character '\\t' that cannot start any token; "
              "check indentation, colons and tabs"),
    "a control character": ("name: r", "name: \x07", "recipe.yaml: not YAML: unacceptable character #x0007: "
                            'special characters are not allowed in "<unicode string>", position 6; remove it'),
    "an alias bomb": ("devices: [board]", f"devices: {BOMB}",
                      "recipe.yaml:9: aliases expand to more than 20000 values; write it without them"),
    "a Python tag": ("name: r", "name: !!python/object/apply:os.system [touch evil]",
                     "recipe.yaml:1: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed; "
                     "use plain text, numbers, lists and maps"),
    "an unknown key": ("schemes:", "scheme:", f"recipe.yaml:5: unknown key 'scheme'; there is {KEYS}"),
    "a key twice": ("name: r", "name: r\nname: s", "recipe.yaml:2: 'name' is given twice; remove one"),
    "a scheme twice": ("  int8:", "  float32: []\n  int8:", "recipe.yaml:7: 'float32' is given twice; remove one"),
    "an unknown stage": ("symmetric", "symetric", "recipe.yaml:7: no plugin offers quantize 'symetric'; "
                         "did you mean 'symmetric'?"),
    "an unknown samples stage": ("{images:", "{image:", "recipe.yaml:2: no plugin offers samples 'image'; "
                                 "did you mean 'images'?"),
    "an unknown option": ("[symmetric]", "[{symmetric: {bit: 8}}]", "recipe.yaml:7: quantize symmetric: unknown option "
                          "'bit'; it takes bits, granularity, weight_range, bits_first, bits_last, bits_depthwise, "
                          "activation_range, percentile, exclude"),
    "an option of the wrong type": ("[symmetric]", "[{symmetric: {bits: many}}]", "recipe.yaml:7: quantize symmetric: "
                                    "option 'bits' is 'many'; give a whole number"),
    "an unknown device": ("[board]", "[bord]", "devices.yaml: no device 'bord'; did you mean 'board'?; "
                          "add it as bord: {ssh: {host: ADDRESS}}"),
    "an unknown variable": ("name: r", "name: '${recipe}'", "recipe.yaml:1: unknown variable 'recipe'; there is none"),
    "an unset secret": ("name: r", "name: '${env:QPIPE_NO}'", "recipe.yaml:1: environment variable 'QPIPE_NO' is not "
                        "set; set it"),
    "an unknown objective": ("size_mb: min", "sizes_mb: min", "recipe.yaml:10: nothing measures 'sizes_mb'; "
                             "did you mean 'size_mb'?"),
    "an objective neither min nor max": ("size_mb: min", "size_mb: low", "recipe.yaml:10: 'size_mb' is 'low'; "
                                         "it is min or max"),
    "an unknown expected metric": ("pareto:", "expect: {top1: {value: 1, tolerance: 0}}\npareto:",
                                   "recipe.yaml:10: nothing scores the float network by 'top1'; there is none"),
    "an expected value that is no number": (
        "size]", "size, {accuracy: {metric: []}}]\nexpect: {agreement: {value: .nan, tolerance: 0}}",
        "recipe.yaml:9: 'agreement' is {'value': nan, 'tolerance': 0}; give {value: 0.85, tolerance: 0.02}",
    ),
    "a name that is a path": ("name: r", "name: ../evil", f"recipe.yaml:1: recipe name '../evil' {NAMES}"),
    "a model's name that is a path": ("  m:", "  ../evil:", f"recipe.yaml:4: model name '../evil' {NAMES}"),
    "a scheme's name that is a path": ("  int8:", "  a/../../b:", f"recipe.yaml:7: scheme name 'a/../../b' {NAMES}"),
    "a build's name that is a path": ("measure:", "builds: {/etc/x: onnxruntime}\nmeasure:",
                                      f"recipe.yaml:8: build name '/etc/x' {NAMES}"),
    "a device's name that is a path": ("[board]", "[../board]", f"recipe.yaml:9: device name '../board' {NAMES}"),
    "no such model": ("m.onnx", "n.onnx", "recipe.yaml:4: import onnx: option 'path': no such file or folder: n.onnx; "
                      "give an existing path, relative to the recipe (with --set, to the working directory)"),
    "no such folder": ("evaluation: evaluation", "evaluation: eval", "recipe.yaml:2: samples images: option "
                       "'evaluation': no such file or folder: eval; "
                       "give an existing path, relative to the recipe (with --set, to the working directory)"),
    "the whole machine": ("evaluation: evaluation", "evaluation: /", "recipe.yaml:2: samples images: option "
                          "'evaluation' is '/', the root of the file system; give a folder in it"),
    "no such plugin": ("name: r", "name: r\nplugins: [mine.py]", "recipe.yaml:2: no such plugin file 'mine.py'; "
                       "give the path of a Python file, relative to the recipe"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_a_recipe_that_cannot_be_meant(case: str, qpipe: Spoilt) -> None:
    old, new, message = TEXTS[case]
    qpipe.edit(old, new)
    assert qpipe.refused("plan recipe.yaml") == message
    assert qpipe.refused("run recipe.yaml") == message


@pytest.mark.parametrize(
    ("stage", "option", "said"),
    [
        ("measure latency", "rounds: 0", "give at least 1"),
        ("measure latency", "values: -3", "give at least 1"),
        ("measure latency", "warmup_s: -1", "give at least 0.0"),
        ("measure latency", "round_s: .inf", "give at most 86400.0"),
        ("measure memory", "rounds: 0", "give at least 1"),
        ("quantize symmetric", "bits: 17", "give at most 8"),
        ("quantize symmetric", "bits: 1", "give at least 2"),
        ("quantize symmetric", "percentile: 200", "give at most 100.0"),
        ("quantize asymmetric", "percentile: .nan", "give at most 100.0"),
        ("quantize logarithmic", "bits: 8", "give at most 5"),
        ("quantize activations", "bits: 9", "give 2 or 3 or 4 or 5 or 6 or 7 or 8 or 16"),
        ("quantize onnxruntime_static", "samples: 0", "give at least 1"),
        ("transform equalize", "iterations: 0", "give at least 1"),
        ("calibrate histogram", "threads: -1", "give at least 0"),
        ("calibrate histogram", "samples: 0", "give at least 1 or null"),
        ("compile onnxruntime", "threads: -1", "give at least 0"),
        ("compile onnxruntime", "providers: [gpu]", "give"),
    ],
)
def test_an_option_out_of_its_range(stage: str, option: str, said: str, qpipe: Spoilt) -> None:
    kind, name = stage.split()
    call = f"{{{name}: {{{option}}}}}"
    if kind == "measure":
        qpipe.edit("[latency, size]", f"[latency, size, {call}]")
    elif kind in ("transform", "quantize"):
        qpipe.edit("[symmetric]", f"[{call}]")
    else:
        qpipe.edit(
            "measure:",
            f"calibrate: {call}\nmeasure:"
            if kind == "calibrate"
            else f"builds: {{b: {call}}}\nmeasure:",
        )
    message = qpipe.refused("plan recipe.yaml")
    key, _, value = option.partition(": ")
    given = {".inf": "inf", ".nan": "nan", "[gpu]": "['gpu']"}.get(value, value)
    assert re.match(
        rf"recipe\.yaml:\d+: {stage}: option '{key}' is {re.escape(given)}; {said.partition(' or null')[0]}",
        message,
    )


# ---- the command line

LINES = {
    "plan no.yaml": "no.yaml: no such file; give the path of a YAML file",
    "plan .": ".: cannot be read: [Errno 21] Is a directory: '.'; give a YAML file in UTF-8",
    "plan m.onnx": r"m\.onnx: cannot be read: 'utf-8' codec can't decode byte .*; give a YAML file in UTF-8",
    "plan /dev/zero": "/dev/zero: longer than 1000000 characters; give a YAML file",
    "plan recipe.yaml --set x": "--set x: '=' is missing; write --set NAME=VALUE",
    "plan recipe.yaml --set x=1": "--set x: no such variable in recipe.yaml; there is none",
    "plan recipe.yaml --only int4": "--only: no scheme 'int4' in recipe.yaml; did you mean 'int8'?",
    "plan recipe.yaml --device x": "devices.yaml: no device 'x'; there is board, local; "
                                   "add it as x: {ssh: {host: ADDRESS}}",
    "plan recipe.yaml --device ../x": "--device: device name '../x' is not allowed; "
                                      "use letters, digits, '.', '_' and '-'",
    "plan recipe.yaml --inventory no.yaml": "no.yaml: no such file; give the path of a YAML file",
    "plan recipe.yaml --inventory m.onnx": r"m\.onnx: cannot be read: .*; give a YAML file in UTF-8",
    "plan recipe.yaml --db m.onnx": "m.onnx: not a database of qpipe: file is not a database; give another file",
    "plan recipe.yaml --db .": ".: cannot open the database: unable to open database file; "
                               "give a file in a writable folder",
    "plan recipe.yaml --db m.onnx/x.db": r"m.onnx/x.db: cannot open the database: .*; give a file in a writable folder",
    "plan recipe.yaml --cache m.onnx": f"m.onnx: cannot be used as the cache: {UNFIT}",
    "plan recipe.yaml --cache m.onnx/x": f"m.onnx/x: cannot be used as the cache: {UNFIT}",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_command_that_cannot_be_meant(line: str, qpipe: Spoilt) -> None:
    for each in (line, line.replace("plan", "run", 1)):
        said = qpipe.refused(each)
        assert said == LINES[line] or re.fullmatch(LINES[line], said), said


USAGES = {
    "schema --of nonsense": "schema: invalid value for '--of': 'nonsense' is not one of 'recipe', .*; "
                            "see: qpipe schema --help",
    "run --nope": "run: no such option: --nope .*; see: qpipe run --help",
    "run": "run: missing argument 'recipe'; see: qpipe run --help",
    "run recipe.yaml --retries a": "run: invalid value for '--retries': .* integer; see: qpipe run --help",
    "pareto x": r"pareto: got unexpected extra argument\(s\) \(x\); see: qpipe pareto --help",
    "runz": "no such command 'runz'; did you mean 'run', 'runs'?",
    "devices nope": "devices: no such command 'nope'; see: qpipe devices --help",
}  # fmt: skip


@pytest.mark.parametrize("line", USAGES)
def test_a_command_that_is_none(line: str, qpipe: Spoilt) -> None:
    said = qpipe.refused(line)
    assert said == USAGES[line] or re.fullmatch(USAGES[line], said), said


# ---- the inventory

INVENTORIES = {
    "[board]": "an inventory is a map of device names to drivers, such as board: {ssh: {host: 10.0.0.7}}",
    "../evil: 'null'": f"device name '../evil' {NAMES}",
    "board: nul": "no plugin offers device 'nul'; did you mean 'null'?",
    "board: ssh": "device ssh: option 'host' is missing; give text",
    "board: {ssh: {host: a, port: 70000}}": "device ssh: option 'port' is 70000; give at most 65535",
    "board: {ssh: {host: a, deadline_s: 0}}": "device ssh: option 'deadline_s' is 0; give more than 0.0",
    "board: {'null': {}, target: {saturate: true}}": "target has no 'saturate'; did you mean 'saturates'?",
    "{board: 'null', board: 'null'}": "'board' is given twice; remove one",
}


@pytest.mark.parametrize("text", INVENTORIES)
def test_an_inventory_that_cannot_be_meant(text: str, qpipe: Spoilt) -> None:
    (qpipe.folder / "devices.yaml").write_text(text, encoding="utf-8")
    assert qpipe.refused("plan recipe.yaml") == f"devices.yaml:1: {INVENTORIES[text]}"


# ---- networks


def damaged(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        path.write_bytes(model.SerializeToString())

    return write


def outside(place: str) -> Callable[[Path], None]:
    """A network whose first weight lies elsewhere."""

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        path = Path("secret.bin")
        path.write_bytes(tensor.raw_data)
        Path("link.bin").symlink_to(path.resolve())
        Path("away.bin").symlink_to("/etc/passwd")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    return damaged(change)


def text(path: Path, body: str) -> None:
    """A network from a float image [1, 3, 16, 16]."""
    head = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1, 3, 16, 16] image) => (float[n] y)'
    )
    path.write_bytes(onnx.parser.parse_model(f"{head} {{ {body} }}").SerializeToString())


def spoil_weight(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[-1]
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[0] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    return change


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[3].output[0]


def nest(path: Path) -> None:
    """A graph in a graph in a graph, a thousand deep: written by hand, for protobuf would not."""
    inner = b""
    for _ in range(1000):
        for tag in (0x32, 0x2A, 0x0A):  # attribute.g, node.attribute, graph.node
            length, size = len(inner), b""
            while length > 127:
                size, length = size + bytes([length & 127 | 128]), length >> 7
            inner = bytes([tag]) + size + bytes([length]) + inner
    whole, size = len(inner), b""
    while whole > 127:
        size, whole = size + bytes([whole & 127 | 128]), whole >> 7
    path.write_bytes(b"\x3a" + size + bytes([whole]) + inner)


NOT_ONNX = "not an ONNX file, or"
IN_FOLDER = "it must be in the model's folder"
MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), NOT_ONNX),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:900]), NOT_ONNX),
    "a picture": (lambda path: shutil.copy("calibration/0.png", path), NOT_ONNX),
    "a text": (lambda path: path.write_text("name: r\n" * 100), NOT_ONNX),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch evil'\ntR."), NOT_ONNX),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "no such file; give the path of an ONNX file"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "no such file; give the path of an ONNX file"),
    "nested without end": (nest, NOT_ONNX),
    "a weight above": (outside("../secret.bin"), IN_FOLDER),
    "a weight anywhere": (outside("/etc/passwd"), IN_FOLDER),
    "a weight behind a link": (outside("away.bin"), IN_FOLDER),
    "a weight that is missing": (outside("gone.bin"), "weight 'zero' is in 'gone.bin', which is missing"),
    "a weight that is NaN": (damaged(spoil_weight(np.nan)), "weight 'head_b' holds NaN or infinity"),
    "a weight that is infinite": (damaged(spoil_weight(np.inf)), "weight 'head_b' holds NaN or infinity"),
    "a weight of gigantic size": (damaged(lambda m: m.graph.initializer[0].dims.append(2**40)), "not a valid network"),
    "a tensor of gigantic size": (
        lambda path: text(path, "s = Constant <value_ints = [999999999999]> () c = ConstantOfShape (s) y = Mul (c, c)"),
        "its shapes need more than 1024 MB of memory",
    ),
    "a cycle": (damaged(cycle), "not a valid network: Nodes in a graph must be topologically sorted"),
    "an unknown operator": (lambda path: text(path, "y = Convolve (image)"), "not a valid network: .*Convolve"),
    "an opset of the future": (damaged(lambda m: setattr(m.opset_import[0], "version", 10**9)), "opset"),
    "an opset of none": (damaged(lambda m: setattr(m.opset_import[0], "version", 0)), "domain_version of 0"),
    "an open dimension": (
        damaged(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", "h")),
        r"dimension 2 \('h'\) of input 'image' is open; pin it with shapes: \{image: \[1, 3, \?, 16\]\}",
    ),
}  # fmt: skip


QUICK = ("empty", "a weight above", "a weight that is NaN", "an open dimension")


@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in MODELS],
)
def test_a_network_that_cannot_be_read(case: str, qpipe: Spoilt) -> None:
    spoil, said = MODELS[case]
    spoil(qpipe.folder / "m.onnx")
    message = qpipe.refused("plan recipe.yaml")
    assert re.match(
        rf"recipe\.yaml:4: {re.escape(str(qpipe.folder))}/m\.onnx: .*{said}", message
    ), message
    assert not (qpipe.folder / "evil").exists()


def test_a_run_of_a_network_that_cannot_be_read_says_the_same_as_a_plan(qpipe: Spoilt) -> None:
    (qpipe.folder / "m.onnx").write_bytes(b"")
    assert qpipe.refused("run recipe.yaml") == qpipe.refused("plan recipe.yaml")


def test_of_two_networks_each_that_is_wrong_has_its_line(qpipe: Spoilt) -> None:
    qpipe.edit("schemes:", "  n: {onnx: {path: n.onnx}}\n  o: {onnx: {path: o.onnx}}\nschemes:")
    for name in "no":
        (qpipe.folder / f"{name}.onnx").write_bytes(b"")
    status, out, err = qpipe.tell("plan recipe.yaml")
    said = [line for line in err.splitlines() if "recipe.yaml:" in line]
    assert (status, out) == (2, "")
    assert [re.sub(r" /.*/(.)\.onnx: .*", r" \1", line) for line in said] == [
        "qpipe: recipe.yaml:5: n",
        "recipe.yaml:6: o",
    ]


# ---- samples, and networks that do not go with them

FITS = {
    "another size": ("size: 16", "size: 8", "float32 [1, 3, 8, 8]"),
    "another layout": ("size: 16", "size: 16, layout: NHWC", "float32 [1, 16, 16, 3]"),
    "another type": (
        "mean: 127.5, std: 127.5",
        "mean: 0, std: 1, dtype: uint8",
        "uint8 [1, 3, 16, 16]",
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_samples_that_the_network_does_not_take(case: str, qpipe: Spoilt) -> None:
    old, new, given = FITS[case]
    qpipe.edit(old, new)
    taken = "input 'image' of the network takes float32 [1, 3, 16, 16]"
    message = (
        f"recipe.yaml:2: the samples give {given}, {taken}; set size, layout or type of the samples"
    )
    assert qpipe.refused("plan recipe.yaml") == message
    assert qpipe.refused("run recipe.yaml") == message


def test_a_network_of_two_inputs_is_not_fed_with_one(qpipe: Spoilt) -> None:
    body = "(float[1, 3, 16, 16] image, float[1, 3] more) => (float[1, 3, 16, 16] y) { y = Relu (image) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> net {body}')
    onnx.save(model, qpipe.folder / "m.onnx")
    message = qpipe.refused("plan recipe.yaml")
    assert re.match(r"recipe\.yaml:2: .*more", message), message


def no_pictures(folder: Path) -> None:
    for picture in (folder / "evaluation").iterdir():
        picture.unlink()


def unreadable(folder: Path) -> None:
    (folder / "evaluation" / "broken.jpg").write_bytes(b"")
    (folder / "evaluation" / "text.png").write_text("hello")


def in_both(folder: Path) -> None:
    shutil.copy(folder / "calibration" / "0.png", folder / "evaluation")


def wrong_columns(folder: Path) -> None:
    (folder / "labels.csv").write_text("name,class\n0.png,1\n")


SAMPLES: dict[str, tuple[Callable[[Path], None], tuple[str, str], str]] = {
    "none": (no_pictures, ("", ""), "images: no image in FOLDER/evaluation; add at least one"),
    "unreadable among good ones": (unreadable, ("", ""), "images: 2 of 6 images cannot be read: .*broken.*text"),
    "the same in both": (in_both, ("", ""), "images: .*0.png"),
    "labels with wrong columns": (
        wrong_columns, ("size: 16", "size: 16, evaluation_labels: labels.csv"),
        "FOLDER/labels.csv:1: columns are name, class; they must be file,label",
    ),
    "labels that are no text": (
        lambda folder: None, ("size: 16", "size: 16, evaluation_labels: m.onnx"),
        "FOLDER/m.onnx: not UTF-8: .*; save it as UTF-8",
    ),
    "labels that are a folder": (
        lambda folder: None, ("size: 16", "size: 16, evaluation_labels: calibration"),
        "images: labels FOLDER/calibration is a folder; give a CSV",
    ),
    "a mean of four": (lambda folder: None, ("mean: 127.5", "mean: [1, 2, 3, 4]"), "images: mean .*"),
    "a std of zero": (lambda folder: None, ("std: 127.5", "std: 0"), "images: std .*"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_that_cannot_be_made(case: str, qpipe: Spoilt) -> None:
    spoil, (old, new), said = SAMPLES[case]
    spoil(qpipe.folder)
    qpipe.edit(old, new)
    message = qpipe.refused("plan recipe.yaml").replace(str(qpipe.folder), "FOLDER")
    assert re.match(f"recipe.yaml:2: {said}", message), message


# ---- plugins

PLUGINS = {
    "does not import": (
        "import nothing_like_that\n",
        "ModuleNotFoundError: No module named 'nothing_like_that'",
    ),
    "ends the program": ("raise SystemExit(0)\n", "SystemExit: 0"),
    "is no Python": ("def broken(:\n", r"SyntaxError: invalid syntax \(mine.py, line 1\)"),
    "is no text": ("\0\x07", "(SyntaxError|ValueError): .*"),
    "breaks when it registers": (
        PLUGIN.replace('register("quantize", mine)', "1 / 0"),
        "ZeroDivisionError: division by zero",
    ),
}


@pytest.mark.parametrize("case", PLUGINS)
def test_a_plugin_that_does_not_load(case: str, qpipe: Spoilt) -> None:
    code, said = PLUGINS[case]
    (qpipe.folder / "mine.py").write_text(code, encoding="utf-8")
    qpipe.edit("name: r", "name: r\nplugins: [mine.py]")
    message = qpipe.refused("plan recipe.yaml")
    assert re.fullmatch(rf".*mine\.py: the plugin does not load: {said}", message), message
    assert qpipe.refused("run recipe.yaml") == message


def test_a_plugin_that_takes_the_name_of_a_stage(qpipe: Spoilt) -> None:
    code = PLUGIN.replace("mine", "symmetric")
    (qpipe.folder / "mine.py").write_text(code, encoding="utf-8")
    qpipe.edit("name: r", "name: r\nplugins: [mine.py]")
    message = qpipe.refused("plan recipe.yaml")
    assert re.fullmatch(r".*two plugins offer quantize 'symmetric': .*; rename one", message), (
        message
    )


# ---- places that do not serve


@pytest.fixture(params=["100k", "250k", "500k"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of that size."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", place], check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_told_and_once_there_is_room_it_goes_on(
    small_disk: Path, qpipe: Spoilt
) -> None:
    line = "recipe.yaml --db disk/results.db --cache disk/cache"
    for command in ("plan", "run"):
        status, out, err = qpipe.tell(f"{command} {line}")
        if status:
            assert re.search("is full|[Nn]o space left", out + err), out + err
            assert len([each for each in err.splitlines() if each.startswith("qpipe: ")]) <= 1, err
    assert status, "the disk was not full"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    for command in ("plan", "run"):
        status, _, err = qpipe.tell(f"{command} {line}")
        assert status == 0, err


@pytest.mark.parametrize("place", ["/proc/qpipe", "/sys/qpipe"])
def test_a_place_where_nothing_can_be_written(place: str, qpipe: Spoilt) -> None:
    if not Path(place).parent.is_dir():
        pytest.skip(f"no {Path(place).parent} here")
    said = qpipe.refused(f"plan recipe.yaml --cache {place}")
    assert re.fullmatch(rf"{place}.*: .*; give another path, or check its permissions", said), said
    said = qpipe.refused(f"plan recipe.yaml --db {place}/results.db")
    assert re.match(
        f"{place}/results.db: cannot open the database: .*; give a file in a writable folder", said
    ), said


# ---- boards: a plan reaches none of them, a run says it and ends with status 1


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port on which nobody listens: taken, and never listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def board(qpipe: Spoilt, **options: object) -> None:
    words = ", ".join(f"{name}: {value}" for name, value in options.items())
    (qpipe.folder / "devices.yaml").write_text(f"board: {{ssh: {{{words}}}}}\n", encoding="utf-8")


def unreachable(qpipe: Spoilt) -> str:
    assert qpipe.tell("plan recipe.yaml")[0] == 0
    return qpipe.refused("run recipe.yaml", 1)


def test_a_board_that_refuses(qpipe: Spoilt, refusing_port: int) -> None:
    board(qpipe, host="127.0.0.1", port=refusing_port, known_hosts="hosts")
    said = unreachable(qpipe)
    assert said.startswith(f"board: 127.0.0.1:{refusing_port} cannot be reached: "), said
    assert said.endswith("; is it on, and is sshd running?"), said


def test_a_board_whose_name_is_unknown(qpipe: Spoilt) -> None:
    board(qpipe, host="no-such-board.invalid")
    assert unreachable(qpipe) == "board: there is no host 'no-such-board.invalid'; give its address"


def test_a_board_whose_host_key_is_unknown(qpipe: Spoilt, sshd: Sshd) -> None:
    (qpipe.folder / "hosts").write_text("", encoding="utf-8")
    board(qpipe, **{**sshd.options(qpipe.folder.parent / "board"), "known_hosts": "hosts"})
    said = unreachable(qpipe)
    assert said.startswith("board: host key of 127.0.0.1 is not known (ED25519 SHA256:"), said
    assert said.endswith("; compare it and pin it with: qpipe devices rekey board"), said


def test_a_board_whose_key_is_wrong(qpipe: Spoilt, sshd: Sshd) -> None:
    board(qpipe, **{**sshd.options(qpipe.folder.parent / "board"), "key": sshd.host_key})
    assert re.match("board: .*accepts none of .*; add one with: ssh-copy-id", unreachable(qpipe))


def test_a_board_without_that_python(qpipe: Spoilt, sshd: Sshd) -> None:
    board(qpipe, **{**sshd.options(qpipe.folder.parent / "board"), "python": "/no/python"})
    assert re.match("board: .*python", unreachable(qpipe))


def bare_python(folder: Path, *modules: str) -> Path:
    """A Python that has the standard library and these modules alone."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for module in modules:
        for part in Path(sys.modules[module].__file__ or "").parent.parent.glob(f"{module}*"):
            (packages / part.name).symlink_to(part)
    return folder / "bin" / "python"


def test_a_board_whose_python_lacks_numpy(
    qpipe: Spoilt, sshd: Sshd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = bare_python(tmp_path_factory.mktemp("python"))
    board(qpipe, **{**sshd.options(qpipe.folder.parent / "board"), "python": python})
    reason = "does not start the agent (its last line: numpy cannot be imported: No module named 'numpy')"
    assert unreachable(qpipe) == f"board: '{python}' {reason}; set python to one that has numpy"


def test_a_board_whose_python_lacks_the_runtime(
    qpipe: Spoilt, sshd: Sshd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = bare_python(tmp_path_factory.mktemp("python"), "numpy")
    board(qpipe, **{**sshd.options(qpipe.folder.parent / "board"), "python": python})
    said = qpipe.refused("run recipe.yaml", 1)
    assert said == "board: onnxruntime is not installed there; run: qpipe devices setup board"


# ---- the real command, as it is typed


@pytest.mark.parametrize("case", ["not YAML", "no such model", "a name that is a path"])
def test_the_command_itself_ends_so(case: str, qpipe: Spoilt) -> None:
    old, new, message = TEXTS[case]
    qpipe.edit(old, new)
    command = [str(Path(sys.executable).with_name("qpipe")), "plan", "recipe.yaml"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"qpipe: {message}\n")


def test_a_name_longer_than_a_file_system_takes_is_no_mistake(qpipe: Spoilt) -> None:
    qpipe.edit("  int8:", f"  {'x' * 300}:")
    status, _, err = qpipe.tell("run recipe.yaml")
    assert status == 0, err
