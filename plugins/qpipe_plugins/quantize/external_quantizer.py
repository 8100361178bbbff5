"""What stages that call another library's quantizer share: samples in, isolation, result out."""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.graph import (
    constant,
    optional_input,
    replace_constant,
    unique_name,
    value_names,
)
from qpipe.quant.network_inputs import input_shapes
from qpipe.samples.preprocess import Shape
from qpipe.samples.store import Samples
from qpipe.types import Array

# domains of the operators that stock ONNX Runtime has
STOCK_DOMAINS = {"", "ai.onnx", "com.microsoft"}
MAX_REASON = 300  # characters of a library's error


# ---- isolation


@contextmanager
def isolated_library(where: str, install: str) -> Iterator[Path]:
    """Yield a temporary folder, the current one meanwhile, for another library to work in.

    What the library prints and logs goes to stderr (a step's log). What it writes there is gone
    afterwards, and what it changes of logging, the environment, random generators and torch's
    threads is restored. Whatever it raises becomes a StageError of one line, which begins with
    `where`; where a module is missing, the error ends with how to `install` it.
    """
    with tempfile.TemporaryDirectory(prefix="qpipe-") as temporary:
        try:
            with (
                chdir(temporary),
                redirect_stdout(sys.stderr),
                warnings.catch_warnings(),
                _restored_globals(temporary),
            ):
                warnings.simplefilter("default")
                yield Path(temporary)
        except (StageError, MemoryError):
            raise
        except ModuleNotFoundError as error:
            raise StageError(f"{where}: {error.name} is not installed; {install}") from error
        except (Exception, SystemExit) as error:
            # foreign code: whatever it raises is about this network
            reason = _first_line(error)
            raise StageError(
                f"{where}: the library's quantizer failed: {reason}; leave this scheme out"
            ) from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error with text, or its class where it has none."""
    for line in str(error).split("\n"):
        if line.strip():
            return line.strip()[:MAX_REASON]
    return type(error).__name__


@contextmanager
def _restored_globals(temporary: str) -> Iterator[None]:
    """Restore global state afterwards; random generators start from seed 0."""
    with _restored_logging(), _restored_environment(temporary), _restored_random_state():
        random.seed(0)
        np.random.seed(0)
        yield


@contextmanager
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    logger_class = logging.getLoggerClass()
    handlers = list(root.handlers)
    level = root.level
    disabled_level = root.manager.disable
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.manager.disable = disabled_level
        root.setLevel(level)
        logging.setLoggerClass(logger_class)


@contextmanager
def _restored_environment(temporary: str) -> Iterator[None]:
    """Restore the environment afterwards; temporary files go to the folder meanwhile."""
    environment = dict(os.environ)
    temporary_before = tempfile.tempdir
    tempfile.tempdir = temporary
    os.environ["TMPDIR"] = temporary
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = temporary_before


@contextmanager
def _restored_random_state() -> Iterator[None]:
    """Restore Python's and numpy's generators; torch's too, and its threads, if it is imported."""
    state = random.getstate()
    numpy_state = np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch else None
    torch_threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        if torch:
            torch.set_rng_state(torch_state)
            torch.set_num_threads(torch_threads)


# ---- samples in


class CalibrationReader:
    """Samples as the quantizers that descend from ONNX Runtime's read them: a data reader."""

    def __init__(self, samples: Samples, inputs: Mapping[str, Shape], count: int) -> None:
        self.samples = samples
        self.inputs = inputs
        self.count = count
        self.rewind()

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)

    def __next__(self) -> dict[str, Array]:
        return next(self.feeds)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self

    def __len__(self) -> int:
        return self.count

    def feed(self, index: int) -> dict[str, Array]:
        """Return one sample as the network is fed, by input name."""
        return self.samples.feeds(index, self.inputs)

    def rewind(self) -> None:
        """Begin at the first sample again."""
        self.set_range(0, self.count)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only the samples of this range."""
        indices = range(start_index, end_index)
        self.feeds: Iterator[dict[str, Array]] = (self.feed(index) for index in indices)


def calibration_reader(model: ir.Model, samples: Samples, count: int | None) -> CalibrationReader:
    """Return a reader of the first `count` samples, of all without it.

    It works from any current folder.
    """
    absolute_samples = Samples(samples.folder.resolve())
    total = len(absolute_samples)
    return CalibrationReader(
        absolute_samples, input_shapes(model), total if count is None else min(count, total)
    )


def name_excluded_nodes(model: ir.Model, exclude: Sequence[str], where: str) -> list[str]:
    """Return the names of the nodes that stay float.

    Libraries identify nodes by name, so every node is given a unique one.
    """
    qdq.check_exclude(model, exclude, where)
    used_names: set[str | None] = set()
    for node in model.graph:
        node.name = unique_name(model.graph, node.name or node.op_type, used_names)
    return [node.name for node in model.graph if node.name and qdq.is_excluded(node, exclude)]


def separate_biases(model: ir.Model) -> None:
    """Give each layer a bias of its own.

    ONNX Runtime's quantizer scales the bias that layers share for each of them, and may give the
    copy the name of another tensor.
    """
    used_names = value_names(model.graph)
    for node in model.graph:
        bias = optional_input(node, 2) if node.op_type in qdq.WEIGHTED else None
        array = constant(bias)
        if bias is not None and array is not None and len(bias.uses()) > 1:
            replace_constant(node, 2, array, used_names=used_names)


# ---- result out


def read_quantized(source: Path | onnx.ModelProto, where: str) -> ir.Model:
    """Return the network that a library quantized.

    Raise StageError where it quantized nothing, or where stock runtimes cannot run the result.
    """
    proto = onnx.load(source) if isinstance(source, Path) else source
    model = ir.from_proto(proto)
    for node in model.graph.all_nodes():
        if node.domain not in STOCK_DOMAINS:
            raise StageError(
                f"{where}: the result has operator {node.op_type} of the library's own domain "
                f"'{node.domain}', which no stock runtime has; use options that give ONNX operators"
            )
    if not any(node.op_type == "DequantizeLinear" for node in model.graph):
        raise StageError(
            f"{where}: the library's quantizer found nothing to quantize in this network; "
            "leave this scheme out"
        )
    return model
