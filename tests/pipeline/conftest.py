"""Fixtures that several tests of the pipeline share."""

from __future__ import annotations

from front_bench import bench as bench
