"""The report of what a network is fed: pictures, sounds, statistics and predictions on one page.

Knows no recipe and no run: it takes tensors and the outputs of a network.
"""

from __future__ import annotations

from qpipe.report.samples_report import PAGE, FedSample, SamplesOfModel, write_samples_report

__all__ = ["PAGE", "FedSample", "SamplesOfModel", "write_samples_report"]
