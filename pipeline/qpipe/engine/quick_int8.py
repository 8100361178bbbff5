"""A network at 8 bits within seconds: calibrated on few samples, and timed against float."""

from __future__ import annotations

import inspect
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qpipe.engine import cache_keys, stage_results
from qpipe.engine.plan import Plan
from qpipe.quant.inference import infer, kernel_times, open_build
from qpipe.quant.network_inputs import network_inputs, states_of
from qpipe.recipe.recipe import Recipe
from qpipe.recipe.stage_call import Call
from qpipe.samples.store import Samples
from qpipe.storage.cache import Cache
from qpipe.types import Array, Build, Platform

if TYPE_CHECKING:
    import onnx_ir as ir

KIND = "int8_time"  # of the entries in the cache that keep it
FILE_NAME = "int8_time.json"
PLAIN_NEEDS = {"model", "statistics"}  # all that a plain quantizer cannot do without

SECONDS = 2.0  # for all rounds
FEWEST_ROUNDS = 3
MOST_ROUNDS = 30
MOST_NAMED = 3  # operators


@dataclass(frozen=True)
class Int8Time:
    """How many times as long a scheme takes as float, and the shares of its operators in that."""

    scheme: str
    ratio: float
    shares: Mapping[str, float]

    def __str__(self) -> str:
        text = f"{self.scheme} takes {self.ratio:.2g} times as long as float on this machine"
        if self.ratio <= 1:
            return text
        by_share = sorted(self.shares.items(), key=lambda item: -item[1])
        named = [f"{share:.0%} {name}".replace("%", " %") for name, share in by_share[:MOST_NAMED]]
        return f"{text}: {', '.join(named)}"


def planned_int8_time(plan: Plan, model: str, cache: Cache) -> Int8Time | None:
    """Return how long a network of a plan would take at 8 bits; None where that cannot be tried.

    Its network and its samples were read. The cache keeps it.
    """
    network = plan.steps[plan.imported[model]]
    samples = plan.steps[plan.samples[model]]
    scheme = plain_scheme(plan.recipe)
    compile_call = _compile_call(plan.recipe)
    if scheme is None or compile_call is None:
        return None
    stages = [plan.recipe.calibrate, *plan.recipe.schemes[scheme], compile_call]
    key = cache_keys.key(
        {
            **cache_keys.of_engine(KIND),
            **cache_keys.of_host(),
            "scheme": scheme,
            "stages": [cache_keys.of_call(call) for call in stages],
            "network": network.key,
            "samples": samples.key,
        }
    )
    folder = cache.get(KIND, key)
    if folder is None:
        float_network = stage_results.read("import", network.result_folder(cache))
        parts = stage_results.read("samples", samples.result_folder(cache))
        measured = try_int8_time(plan.recipe, scheme, float_network, parts["calibration"])
        with cache.put(KIND, key) as out:
            text = json.dumps(asdict(measured) if measured is not None else None)
            (out / FILE_NAME).write_text(text)
        return measured
    fields = json.loads((folder / FILE_NAME).read_text())
    return Int8Time(**fields) if fields is not None else None


def plain_scheme(recipe: Recipe) -> str | None:
    """Return the first scheme of one quantizer that needs no samples; None without one."""
    for name, chain in recipe.schemes.items():
        if len(chain) == 1 and chain[0].kind == "quantize" and _is_plain(chain[0]):
            return name
    return None


def _is_plain(call: Call) -> bool:
    parameters = inspect.signature(call.stage.function).parameters.values()
    needed = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    return needed == PLAIN_NEEDS


def try_int8_time(
    recipe: Recipe, scheme: str, model: ir.Model, samples: Samples
) -> Int8Time | None:
    """Quantize a network by a plain scheme on one sample, and time it; None where that fails."""
    if states_of(model):
        return None
    try:
        with silence():
            quantized = quantize_quickly(recipe, scheme, model, samples, 1)
            return measure_int8_time(recipe, scheme, model, quantized, samples)
    except Exception:  # noqa: BLE001  (foreign code: whatever a stage raises, a run tells)
        return None


def quantize_quickly(
    recipe: Recipe, scheme: str, model: ir.Model, samples: Samples, count: int
) -> ir.Model:
    """Return the network that a plain scheme of the recipe makes, calibrated on so many samples."""
    calibrate = recipe.calibrate
    options = calibrate.resolved()
    if "samples" in inspect.signature(calibrate.stage.function).parameters:
        options["samples"] = count
    statistics = calibrate.stage.function(model, samples, lambda *_: None, **options)
    network = _copy(model)
    for call in recipe.schemes[scheme]:
        network = call.stage.function(network, statistics, **call.resolved())
    return network


def measure_int8_time(
    recipe: Recipe, scheme: str, model: ir.Model, quantized: ir.Model, samples: Samples
) -> Int8Time | None:
    """Time the builds of both networks for ONNX Runtime in turns; None where there are none."""
    compile_call = _compile_call(recipe)
    if compile_call is None:
        return None
    feeds = samples.feeds(0, network_inputs(model).shapes)
    with tempfile.TemporaryDirectory() as folder:
        builds = [
            _build(compile_call, network, Path(folder) / name)
            for name, network in (("float", model), ("int8", quantized))
        ]
        ratio = _ratio(builds, feeds)
        shares: dict[str, float] = {}
        if ratio > 1:
            times = kernel_times(*_file_and_config(builds[1]), feeds)
            total = sum(times.values())
            shares = {name: seconds / total for name, seconds in times.items()}
    return Int8Time(scheme, ratio, shares)


def _compile_call(recipe: Recipe) -> Call | None:
    """Return the first build of a recipe that this machine can run; None where there is none."""
    calls = (call for call in recipe.builds.values() if call.name == "onnxruntime")
    return next(calls, None)


def _build(call: Call, model: ir.Model, folder: Path) -> Build:
    build: Build = call.stage.function(_copy(model), Platform(), folder, **call.resolved())
    return build


def _copy(model: ir.Model) -> ir.Model:
    import onnx_ir as ir

    return ir.from_proto(ir.to_proto(model))


def _file_and_config(build: Build) -> tuple[Path, Mapping[str, str]]:
    return build.folder / build.manifest["model"], build.manifest["options"]["config"]


def _ratio(builds: Sequence[Build], feeds: Mapping[str, Array]) -> float:
    """Return the second build's least time by the first's: what else runs only adds to times."""
    sessions = [open_build(*_file_and_config(build)) for build in builds]
    for session in sessions:
        infer(session, feeds)
    least = [math.inf] * len(sessions)
    end = time.monotonic() + SECONDS
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.monotonic() > end:
            break
        for index, session in enumerate(sessions):
            start = time.perf_counter()
            infer(session, feeds)
            least[index] = min(least[index], time.perf_counter() - start)
    return least[1] / least[0]


@contextmanager
def silence() -> Iterator[None]:
    """Keep what stages log to themselves: who tries them tells it in other words."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
