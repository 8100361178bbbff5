"""The runner of OpenVINO: travels in the build (so: Python 3.8), loads one model with the properties of its build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping  # noqa: UP035  (Python 3.8 on the board)

if TYPE_CHECKING:
    import numpy as np

NOT_RUN = {"Const", "Input", "Output"}
NOISE = (
    "Exception from ",
    "Check '",
    "Summary:",
    "FrontEnd API failed",
)  # lines that say where in OpenVINO, not what


class Model:
    """One compiled model and the one request that runs it. `options`: device, and properties as OpenVINO has them."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        import openvino

        folder = Path(request["build"])
        manifest = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        self.inputs, self.outputs = (
            [each["name"] for each in manifest[key]] for key in ("inputs", "outputs")
        )
        given = request["options"]
        properties = dict(given["properties"])
        if request.get("threads") is not None and given["device"] == "CPU":
            self.threads = properties["INFERENCE_NUM_THREADS"] = request["threads"]
        try:
            self.compiled = openvino.Core().compile_model(
                str(folder / request["model"]), given["device"], properties
            )
        except RuntimeError as error:
            raise ValueError(_said(str(error))) from error
        self.request = self.compiled.create_infer_request()
        self.ports = [self.compiled.output(name) for name in self.outputs]

    def infer(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:  # noqa: UP006
        """One inference: what is timed. Inputs are read where they lie, outputs are the caller's to keep."""
        found = self.request.infer(feeds, share_inputs=True)
        return [found[port] for port in self.ports]

    def placement(self) -> Mapping[str, Any]:
        """From the graph that runs, of which OpenVINO tells each node's precision."""
        from qpipe_agent import kernels  # type: ignore[import-not-found]  # what the agent is called on the device

        device = ",".join(self.compiled.get_property("EXECUTION_DEVICES")).lower()
        found = (kernels.Kernel(device, *node) for node in _fed(self.compiled.get_runtime_model()))
        counted: Mapping[str, Any] = kernels.count(found)
        return counted


def _fed(graph: Any) -> Iterator[tuple[str, str, str]]:
    """Operator, precision and name of each node that depends on an input: what constants alone make is made once."""
    fed: set[str] = set()
    for node in graph.get_ordered_ops():
        said = node.get_rt_info()
        operator, precision = (said[key].astype(str) for key in ("layerType", "runtimePrecision"))
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        if operator == "Input" or fed.intersection(sources):
            fed.add(node.get_friendly_name())
            if operator not in NOT_RUN:
                yield operator, precision, node.get_friendly_name()


def _said(error: str) -> str:
    """The lines of an error of OpenVINO that say what is wrong."""
    lines = [line.strip(" -") for line in error.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(NOISE)) or error


def main() -> None:
    """Serve until stdin ends."""
    from qpipe_agent import serving

    serving.serve("openvino", Model)


if __name__ == "__main__":
    main()
