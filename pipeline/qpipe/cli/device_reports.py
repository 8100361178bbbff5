"""What commands print about devices: findings line by line, failures on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from qpipe.cli.tables import print_text

if TYPE_CHECKING:
    from qpipe.types import Finding


def print_finding(device: str, finding: Finding) -> None:
    """Print a line of a check or a setup."""
    print_text(f"{device}: {finding.state:7} {finding.what:10} {finding.said}")


def exit_with_failures(failures: Iterable[str]) -> None:
    """Print a line for each failed device and exit with status 1; return where there is none."""
    lines = list(failures)
    for line in lines:
        print(f"qpipe: {line}", file=sys.stderr)  # noqa: T201
    if lines:
        sys.exit(1)
