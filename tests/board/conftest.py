"""What tests with a virtual board share."""

from __future__ import annotations

import sys
from pathlib import Path

from ready_board import start_board as start_board

sys.path.append(str(Path(__file__).parents[1] / "devices"))  # the lab of the fault matrix
from fault_lab import undisturbed as undisturbed
