"""ONNX Runtime's providers, threads and session options, on the device: what is missing or idle is said."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import qpipe
from models import conv_net, images, run
from processors import machine_kind, session
from qpipe.errors import RecipeError, StageError
from qpipe.stages import options as stage_options
from qpipe.types import Platform
from qpipe_devices import local
from qpipe_plugins.compile.onnxruntime import onnxruntime
from small_build import nothing

FLOAT_NODES = 5  # Conv with Clip three times, the last with Add; pooling; Gemm
# how many of these there are depends on the width of the processor's vectors
MOVING = {"Flatten", "ReorderInput", "ReorderOutput"}


@pytest.fixture
def board(tmp_path):
    device = local("board", folder=tmp_path / "board")
    yield device
    device.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    arrays = (qpipe.Sample(str(i), {"image": array[0]}) for i, array in enumerate(images(2)))
    return qpipe.Samples.write(
        tmp_path_factory.mktemp("samples"), arrays, {"image": qpipe.Preprocessing()}
    )


def infer(board, folder, samples, **given):
    build = onnxruntime(conv_net(), Platform(), folder / "build", **given)
    stored = board.store(build.folder, nothing)
    return stored, list(board.infer(stored, board.store(samples.folder, nothing), 2))


def operators_here(folder: Path) -> list[str]:
    """Those of the graph that ONNX Runtime runs on this machine."""
    session(ir.to_proto(conv_net()), machine_kind(), optimized_path=folder / "optimized.onnx")
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def test_an_unknown_provider_is_refused_before_anything_runs():
    with pytest.raises(
        RecipeError, match=r"^r.yaml:7: option 'providers' is \['xnpack'\]; .*'xnnpack'"
    ):
        stage_options.check(onnxruntime, {"providers": ["xnpack"]}, "r.yaml:7")


def test_options_of_a_provider_that_is_not_asked_for_are_refused(tmp_path):
    with pytest.raises(StageError) as error:
        onnxruntime(
            conv_net(),
            Platform(),
            tmp_path,
            provider_options={"xnnpack": {"intra_op_num_threads": 2}},
        )
    assert str(error.value) == (
        "compile onnxruntime: provider_options has xnnpack, which providers has not; add it to providers, or remove its options"
    )


@pytest.mark.parametrize(
    ("providers", "reason"),
    [
        (
            ["xnnpack", "cpu"],
            "provider xnnpack is not available; available providers are azure, cpu; "
            "install an onnxruntime that has it, or set fallback: allow",
        ),
        (["azure"], "azure does not take all nodes; add cpu to providers, or set fallback: allow"),
        (
            ["azure", "cpu"],
            "provider azure takes no node of this network; leave it out, or set fallback: allow",
        ),
    ],
    ids=["missing", "left to the cpu", "idle"],
)
def test_a_provider_that_does_not_do_its_part_is_an_error(
    providers, reason, board, samples, tmp_path
):
    with pytest.raises(qpipe.DeviceError) as error:
        infer(board, tmp_path, samples, providers=providers)
    assert (
        str(error.value) == f"board: runner run_onnxruntime.py could not load model.onnx: {reason}"
    )


@pytest.mark.parametrize("providers", [["xnnpack", "cpu"], ["azure"], ["azure", "cpu"]])
def test_where_fallback_is_allowed_the_cpu_takes_over_and_placement_says_so(
    providers, board, samples, tmp_path
):
    stored, outputs = infer(board, tmp_path, samples, providers=providers, fallback="allow")
    expected = run(conv_net(), images(2), optimize=True)
    assert [each["logits"].tobytes() for each in outputs] == [
        each["logits"].tobytes() for each in expected
    ]
    moving = [operator for operator in operators_here(tmp_path) if operator in MOVING]
    assert board.placement(stored).nodes == {"cpu": {"float32": FLOAT_NODES, "other": len(moving)}}


def test_session_entries_and_threads_arrive(board, samples, tmp_path):
    # this entry has ONNX Runtime refuse: the CPU was asked for, and forbidden
    session = {"session.disable_cpu_ep_fallback": True, "session.intra_op.allow_spinning": False}
    with pytest.raises(qpipe.DeviceError, match="Conflicting session configuration"):
        infer(board, tmp_path, samples, session=session)
    _, outputs = infer(
        board, tmp_path / "more", samples, threads=2, session={"session.intra_op.allow_spinning": 0}
    )
    assert len(outputs) == 2


def test_a_session_option_that_this_onnxruntime_lacks_is_named(board, samples, tmp_path):
    build = onnxruntime(conv_net(), Platform(), tmp_path / "build")
    options = {**build.manifest["options"], "session": {"warp_speed": 9}}
    qpipe.Build.write(build.folder, {**build.manifest, "options": options})
    with pytest.raises(
        qpipe.DeviceError, match=r"build.json: this onnxruntime has no session option 'warp_speed'$"
    ):
        board.placement(board.store(build.folder, nothing))
