"""The runner of OpenVINO, which travels in the build: it loads one model and infers.

On the board it needs Python 3.8, numpy and openvino, nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping  # noqa: UP035  (Python 3.8 on the board)

if TYPE_CHECKING:
    import numpy as np

NOT_RUN = {"Const", "Input", "Output"}
# how lines of an error begin that tell where in OpenVINO it was raised, not what is wrong
LOCATION_LINES = ("Exception from ", "Check '", "Summary:", "FrontEnd API failed")


class Model:
    """One compiled model and the one request that runs it.

    Options of the request: the device, and properties as OpenVINO names them.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        import openvino

        folder = Path(request["build"])
        manifest = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        self.inputs = [tensor["name"] for tensor in manifest["inputs"]]
        self.outputs = [tensor["name"] for tensor in manifest["outputs"]]
        options = request["options"]
        properties = dict(options["properties"])
        if request.get("threads") is not None and options["device"] == "CPU":
            self.threads = request["threads"]
            properties["INFERENCE_NUM_THREADS"] = self.threads
        try:
            self.compiled = openvino.Core().compile_model(
                str(folder / request["model"]), options["device"], properties
            )
        except RuntimeError as error:
            raise ValueError(_reason(str(error))) from error
        self.request = self.compiled.create_infer_request()
        self.ports = [self.compiled.output(name) for name in self.outputs]

    def infer(self, feeds: Dict[str, np.ndarray]) -> List[np.ndarray]:  # noqa: UP006
        """Run one inference: this is what is timed.

        Inputs are read without a copy; the outputs are copies, which the caller may keep.
        """
        results = self.request.infer(feeds, share_inputs=True)
        return [results[port] for port in self.ports]

    def placement(self) -> Mapping[str, Any]:
        """Count the nodes by precision, from the compiled graph, which has each node's."""
        # the agent's name on the device
        from qpipe_agent import kernels  # type: ignore[import-not-found]

        devices = self.compiled.get_property("EXECUTION_DEVICES")
        device = ",".join(devices).lower()
        nodes = _computed_nodes(self.compiled.get_runtime_model())
        counts: Mapping[str, Any] = kernels.count(kernels.Kernel(device, *node) for node in nodes)
        return counts


def _computed_nodes(graph: Any) -> Iterator[tuple[str, str, str]]:
    """Yield operator, precision and name of each node that depends on an input.

    What depends on constants alone is computed once, when the model is loaded.
    """
    dependent: set[str] = set()
    for node in graph.get_ordered_ops():
        info = node.get_rt_info()
        operator = info["layerType"].astype(str)
        precision = info["runtimePrecision"].astype(str)
        name = node.get_friendly_name()
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        if operator == "Input" or dependent.intersection(sources):
            dependent.add(name)
            if operator not in NOT_RUN:
                yield operator, precision, name


def _reason(error: str) -> str:
    """Return the lines of an OpenVINO error that tell what is wrong."""
    lines = [line.strip(" -") for line in error.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(LOCATION_LINES)]
    return " ".join(reasons) or error


def main() -> None:
    """Serve until stdin ends."""
    from qpipe_agent import serving

    serving.serve("openvino", Model)


if __name__ == "__main__":
    main()
