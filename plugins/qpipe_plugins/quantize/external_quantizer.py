"""What stages that call somebody else's quantizer share: how it is fed, and what of it is kept from everybody else."""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.graph import unique_name
from qpipe.samples.store import Samples
from qpipe.types import Array

STOCK = {"", "ai.onnx", "com.microsoft"}  # domains of operators that ONNX Runtime has as it is
LONGEST = 300  # characters of a library's error


@contextmanager
def contained(where: str, install: str) -> Iterator[Path]:
    """A folder, meanwhile the current one, for somebody else's library to work in.

    What it prints and logs goes to stderr (a step's log). What it writes there, or changes of logging, the environment,
    random generators and torch's threads, is gone afterwards. What it raises is a StageError of one line; where a
    module is missing that says how to `install` it.
    """
    with tempfile.TemporaryDirectory(prefix="qpipe-") as temporary:
        try:
            with (
                chdir(temporary),
                redirect_stdout(sys.stderr),
                warnings.catch_warnings(),
                _restored(temporary),
            ):
                warnings.simplefilter("default")
                yield Path(temporary)
        except (StageError, MemoryError):
            raise
        except ModuleNotFoundError as error:
            raise StageError(f"{where}: {error.name} is not installed; {install}") from error
        except (
            Exception,
            SystemExit,
        ) as error:  # foreign code: whatever it raises is about this network
            lines = str(error).split("\n")
            reason = next((line.strip() for line in lines if line.strip()), type(error).__name__)[
                :LONGEST
            ]
            raise StageError(
                f"{where}: its quantizer failed: {reason}; leave this scheme out"
            ) from error


@contextmanager
def _restored(temporary: str) -> Iterator[None]:
    root = logging.getLogger()
    logger_class = logging.getLoggerClass()
    handlers = list(root.handlers)
    level = root.level
    disabled = root.manager.disable
    environment = dict(os.environ)
    scratch = tempfile.tempdir
    state = random.getstate()
    numpy_state = np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = (torch.get_rng_state(), torch.get_num_threads()) if torch else None
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.manager.disable = disabled
        root.setLevel(level)
        logging.setLoggerClass(logger_class)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = scratch
        random.setstate(state)
        np.random.set_state(numpy_state)
        if torch and torch_state:
            torch.set_rng_state(torch_state[0])
            torch.set_num_threads(torch_state[1])


class Reader:
    """Samples as the quantizers that descend from ONNX Runtime's read them."""

    def __init__(self, samples: Samples, inputs: list[str], count: int) -> None:
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

    def rewind(self) -> None:
        self.set_range(0, self.count)

    def set_range(self, start_index: int, end_index: int) -> None:
        feeds = self.samples.feeds
        inputs = self.inputs
        self.feeds: Iterator[dict[str, Array]] = (
            feeds(index, inputs) for index in range(start_index, end_index)
        )


def reader(model: ir.Model, samples: Samples, count: int | None) -> Reader:
    """A reader of the first `count` samples, all where that is None; wherever the current folder is."""
    inputs = [value.name for value in model.graph.inputs if value.name]
    found = Samples(samples.folder.resolve())
    return Reader(found, inputs, len(found) if count is None else min(count, len(found)))


def excluded(model: ir.Model, exclude: Sequence[str], where: str) -> list[str]:
    """The names of the nodes that are to stay float; the libraries know nodes by name, so all get one of their own."""
    qdq.check_exclude(model, exclude, where)
    taken: set[str | None] = set()
    for node in model.graph:
        node.name = unique_name(model.graph, node.name or node.op_type, taken)
    return [node.name for node in model.graph if node.name and qdq.is_excluded(node, exclude)]


def read(source: Path | onnx.ModelProto, where: str) -> ir.Model:
    """The network that a library made; StageError where it quantized nothing, or stock runtimes cannot run it."""
    model = ir.from_proto(source if isinstance(source, onnx.ModelProto) else onnx.load(source))
    for node in model.graph.all_nodes():
        if node.domain not in STOCK:
            raise StageError(
                f"{where}: it gives an operator {node.op_type} of its own domain '{node.domain}', which no stock "
                "runtime has; use options that give ONNX's own"
            )
    if not any(node.op_type == "DequantizeLinear" for node in model.graph):
        raise StageError(
            f"{where}: its quantizer found nothing to quantize in this network; leave this scheme out"
        )
    return model
