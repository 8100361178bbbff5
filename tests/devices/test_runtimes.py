"""What a device says of its runtimes, CPU and architecture: what an import would find, and what is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qpipe.engine.targets import platform_of
from qpipe.types import Capabilities
from qpipe_devices.agent import machine
from qpipe_devices.setup import bare_board


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts distributions into folders that alone are on the path."""
    monkeypatch.setattr(sys, "path", [])

    def put(place: str, **versions: str) -> None:
        folder = tmp_path / place
        for name, version in versions.items():
            info = folder / f"{name}-{version}.dist-info"
            info.mkdir(parents=True)
            text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
            (info / "METADATA").write_text(text, encoding="utf-8")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))

    return put


def test_variants_of_a_runtime_are_told_apart(install):
    install("site", onnxruntime_gpu="1.23.1", openvino="2026.4.1")
    assert machine._runtime_versions() == {"onnxruntime": "1.23.1+gpu", "openvino": "2026.4.1"}


def test_a_local_version_keeps_its_own_label(install):
    install("site", onnxruntime_gpu="1.19.0+cu118")
    assert machine._runtime_versions() == {"onnxruntime": "1.19.0+cu118.gpu"}


def test_what_comes_first_on_the_path_counts(install):
    install("brought", onnxruntime="1.32.0")
    install("system", onnxruntime_gpu="1.23.1")
    assert machine._runtime_versions() == {"onnxruntime": "1.32.0"}


def test_variants_side_by_side_are_both_named(install):
    install("site", onnxruntime="1.32.0", onnxruntime_gpu="1.31.0")
    assert machine._runtime_versions() == {"onnxruntime": "1.32.0+gpu"}


def test_a_labelled_version_still_says_what_it_loads():
    def platform(version: str):
        capabilities = Capabilities(
            "x86_64", "Linux", "cpu", 1, (), 1.0, "3.11", "2.0", {"onnxruntime": version}, "fingerprint"
        )  # fmt: skip
        return platform_of(capabilities, "onnxruntime")

    assert platform("1.22.0+gpu") == platform("1.22.0")


def test_a_kernel_without_cpuinfo_is_no_error(tmp_path):
    assert machine._cpuinfo_fields(tmp_path / "cpuinfo") == {}


def test_the_probe_and_the_agent_agree_on_the_architecture():
    assert machine._architecture() == bare_board.architecture()
