"""What a network is fed, to be looked at: pictures, sounds, heat maps, statistics, predictions, on one page.

Knows no recipe and no run: it is given tensors, and what came out.
"""

from __future__ import annotations

from qpipe.report.samples_report import PAGE, Look, Subject, write

__all__ = ["PAGE", "Look", "Subject", "write"]
