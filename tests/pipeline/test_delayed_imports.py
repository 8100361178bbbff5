"""What takes long to import and is rarely used is loaded when it is used, and works then."""

from __future__ import annotations

import subprocess
import sys

COMMAND = """
import sys
import qpipe.engine.request
import onnx_ir as ir
from qpipe.stages import registry

registry.load()
print("sympy.core" in sys.modules)
print(ir.SymbolicDim("N") + 1, ir.SymbolicDim("2 * M") * 3)
print("sympy.core" in sys.modules)
"""


def test_a_command_does_not_pay_for_sympy_and_symbolic_dimensions_work() -> None:
    command = [sys.executable, "-c", COMMAND]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["False", "N + 1 6*M", "True"]
