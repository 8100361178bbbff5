"""A recipe expanded: what is shared, what is not, and what a change invalidates."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import scratch_lab
from scratch_lab import Lab

from qpipe.engine import code_digest
from qpipe.engine.plan import DeviceInPlan, Plan, Step, make_plan
from qpipe.engine.targets import platform_of, target_of
from qpipe.errors import PluginError
from qpipe.recipe import inventory, recipe
from qpipe.types import Capabilities, Platform, Target


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return scratch_lab.lab(tmp_path)


def expand(lab: Lab, *devices: str, digests: dict[str, str] | None = None, **settings: str) -> Plan:
    """The plan on devices that have said what they are."""
    loaded, plugins = recipe.load(lab.recipe, settings)
    known = inventory.load(lab.folder / "devices.yaml", plugins)
    names = devices or loaded.devices
    opened = {name: inventory.open_device(name, known[name]) for name in names}
    in_plan = [DeviceInPlan(name, known[name], opened[name].capabilities()) for name in names]
    return make_plan(loaded, in_plan, lambda _: digests or {})


def schemes(lab: Lab, text: str) -> None:
    lab.edit("recipe.yaml", '  snapped: [{snap: {bits: "${bits}"}}]\n', text)


def ids(plan: Plan, kind: str) -> list[str]:
    return [step.id for step in plan.steps.values() if step.kind == kind]


def changed(before: Plan, after: Plan) -> set[str]:
    """The steps whose results may differ."""
    return {
        step
        for step in after.steps
        if step not in before.steps or before.steps[step].key != after.steps[step].key
    }


def test_the_steps_are_in_an_order_in_which_each_follows_what_it_needs(lab: Lab) -> None:
    schemes(
        lab,
        "  a: [flip, ranged]\n  b: [flip, turn, {ranged: {percentile: 9}}, snap]\n  c: [aimed]\n",
    )
    seen: set[str] = set()
    for step in expand(lab, "one", "arm").steps.values():
        assert set(step.dependencies) <= seen
        seen.add(step.id)


def test_the_whole_of_a_small_recipe(lab: Lab) -> None:
    assert list(expand(lab).steps) == [
        "samples", "tiny/import",
        "tiny/float32/packed", "tiny/float32/packed@one",
        "tiny/snapped/snap", "tiny/snapped/packed", "tiny/snapped/packed@one",
        "one/pace", "tiny/float32/packed@one/weight", "tiny/snapped/packed@one/weight",
    ]  # fmt: skip


def test_what_no_measurement_asks_for_is_not_planned(lab: Lab) -> None:
    assert not ids(expand(lab), "upload")
    lab.edit("recipe.yaml", "measure: [", "measure: [{accuracy: {metric: closeness}}, ")
    plan = expand(lab, "one", "two")
    assert ids(plan, "upload") == ["one/samples", "two/samples"]
    assert ids(plan, "reference") == ["tiny/reference"]
    assert plan.steps["tiny/snapped/packed@two/accuracy"].needs["float_outputs"] == "tiny/reference"


def test_float_is_planned_where_no_scheme_is_named_for_it(lab: Lab) -> None:
    lab.edit("recipe.yaml", "  float32: []\n", "")
    plan = expand(lab)
    assert [step.id for step in plan.steps.values() if step.is_float and step.kind == "deploy"] == [
        "tiny/float32/packed@one"
    ]
    assert "tiny/snapped/packed@one" in plan.steps


def test_schemes_with_the_same_transforms_share_them_and_the_calibration_of_what_they_give(
    lab: Lab,
) -> None:
    schemes(lab, "  a: [flip, ranged]\n  b: [flip, {ranged: {percentile: 9}}]\n  c: [ranged]\n")
    plan = expand(lab)
    assert ids(plan, "import") == ["tiny/import"]
    assert ids(plan, "transform") == ["tiny/flip"]
    assert ids(plan, "calibrate") == ["tiny/flip/histogram", "tiny/histogram"]
    assert plan.steps["tiny/flip/histogram"].needs["model"] == "tiny/flip"
    assert plan.steps["tiny/a/ranged"].needs == {
        "model": "tiny/flip",
        "statistics": "tiny/flip/histogram",
    }
    assert plan.steps["tiny/c/ranged"].needs == {
        "model": "tiny/import",
        "statistics": "tiny/histogram",
    }


def test_transforms_of_one_name_and_other_options_are_two_steps(lab: Lab) -> None:
    schemes(lab, "  a: [turn, snap]\n  b: [{turn: {degrees: 45}}, snap]\n  c: [turn, flip]\n")
    plan = expand(lab)
    assert ids(plan, "transform") == ["tiny/turn", "tiny/turn~2", "tiny/turn/flip"]
    assert plan.steps["tiny/b/snap"].needs == {"model": "tiny/turn~2"}


def test_a_shared_beginning_of_two_chains_is_computed_once(lab: Lab) -> None:
    schemes(lab, "  a: [snap]\n  b: [snap, ranged]\n")
    plan = expand(lab)
    assert ids(plan, "quantize") == ["tiny/a/snap", "tiny/b/ranged"]
    assert plan.steps["tiny/b/ranged"].needs["model"] == "tiny/a/snap"


def test_two_schemes_that_are_the_same_share_a_build_and_are_still_two_rows(lab: Lab) -> None:
    schemes(lab, "  a: [snap]\n  b: [snap]\n")
    plan = expand(lab)
    assert ids(plan, "compile") == ["tiny/float32/packed", "tiny/a/packed"]
    assert {"tiny/a/packed@one", "tiny/b/packed@one"} <= set(ids(plan, "deploy"))
    assert plan.steps["tiny/b/packed@one/weight"].coordinates["scheme"] == "b"


def test_two_models_from_one_file_have_each_an_import(lab: Lab) -> None:
    lab.edit("recipe.yaml", "models: {tiny: tiny}", "models: {tiny: tiny, again: tiny}")
    assert ids(expand(lab), "import") == ["tiny/import", "again/import"]


def test_devices_with_equal_targets_share_everything_of_the_host(lab: Lab) -> None:
    schemes(lab, "  a: [aimed]\n")
    plan = expand(lab, "one", "two")
    assert ids(plan, "quantize") == ["tiny/a/aimed"]
    assert ids(plan, "compile") == ["tiny/float32/packed", "tiny/a/packed"]
    assert len(ids(plan, "deploy")) == 4


def test_a_stage_that_asks_for_the_target_runs_once_for_each_and_another_once(lab: Lab) -> None:
    schemes(lab, "  a: [aimed]\n  b: [snap]\n")
    assert ids(expand(lab, "one", "arm"), "quantize") == [
        "tiny/a/aimed",
        "tiny/b/snap",
    ]  # other CPUs, one target
    lab.edit("devices.yaml", "two: 'null'", "two: {'null': {}, target: {symmetric_only: true}}")
    plan = expand(lab, "one", "two", "arm")
    assert ids(plan, "quantize") == ["tiny/a/aimed", "tiny/b/snap", "tiny/a/aimed~2"]
    builds = ["tiny/float32/packed", "tiny/a/packed", "tiny/b/packed"]
    assert ids(plan, "compile") == [
        *builds,
        *(f"{build}~2" for build in builds),
    ]  # each is held against its target
    assert plan.steps["tiny/a/packed~2"].needs["model"] == "tiny/a/aimed~2"
    assert plan.steps["tiny/b/packed~2"].needs["model"] == "tiny/b/snap"
    targets = [plan.steps[step].target for step in ("tiny/a/aimed", "tiny/a/aimed~2")]
    assert targets == [Target(), Target(symmetric_only=True)]


def test_whether_sums_saturate_matters_only_to_what_is_quantized(lab: Lab) -> None:
    schemes(lab, "  a: [aimed]\n  b: [snap]\n")
    lab.edit("devices.yaml", "two: 'null'", "two: {'null': {}, target: {saturates: true}}")
    plan = expand(lab, "one", "two")
    assert ids(plan, "quantize") == ["tiny/a/aimed", "tiny/b/snap", "tiny/a/aimed~2"]
    assert ids(plan, "compile") == [
        "tiny/float32/packed",
        "tiny/a/packed",
        "tiny/b/packed",
        "tiny/a/packed~2",
        "tiny/b/packed~2",  # whose codes are made exact there
    ]
    assert plan.steps["tiny/float32/packed@two"].needs["build"] == "tiny/float32/packed"
    assert plan.steps["tiny/b/packed~2"].needs["model"] == "tiny/b/snap"
    assert plan.steps["tiny/b/packed~2"].target == Target(saturates=True)
    assert plan.steps["tiny/b/packed@two"].target == Target(saturates=True)


def test_what_a_runtime_demands_of_quantization_is_in_its_target(lab: Lab) -> None:
    schemes(lab, "  a: [aimed]\n")
    lab.edit(
        "stages.py",
        'register("compile", pack)',
        'register("compile", pack, demands={"per_tensor_weights": True})',
    )
    assert expand(lab).steps["tiny/a/aimed"].target == Target(per_tensor_weights=True)


OWN = "{left: {tiny: {}, samples: {noise: {evaluation_count: 2}}}, right: {tiny: {scale: 2}}, third: {tiny: {scale: 3}}}"


def test_a_model_may_bring_samples_of_its_own_and_the_others_share(lab: Lab) -> None:
    lab.edit("recipe.yaml", "{tiny: tiny}", OWN)
    lab.edit("recipe.yaml", "measure: [", "measure: [{accuracy: {metric: closeness}}, ")
    plan = expand(lab)
    assert ids(plan, "samples") == ["left/samples", "samples"]
    assert ids(plan, "upload") == ["one/left/samples", "one/samples"]
    assert plan.steps["left/reference"].needs["evaluation_samples"] == "left/samples"
    accuracy = {
        model: plan.steps[f"{model}/snapped/packed@one/accuracy"].needs
        for model in ("left", "right", "third")
    }
    assert [accuracy[m]["device_samples"] for m in accuracy] == [
        "one/left/samples",
        "one/samples",
        "one/samples",
    ]
    lab.edit("recipe.yaml", 'samples: {noise: {evaluation_count: "${evaluation_count}"}}\n', "")
    lab.edit(
        "recipe.yaml",
        "{tiny: {scale: 2}}, third: {tiny: {scale: 3}}",
        "{tiny: {}, samples: {noise: {evaluation_count: 2}}}",
    )
    assert ids(expand(lab), "samples") == ["left/samples"]  # the same ones


def test_what_is_expected_of_float_comes_before_all_that_is_made_of_the_network(lab: Lab) -> None:
    lab.edit("recipe.yaml", "measure: [", "measure: [{score: {metric: closeness}}, ")
    before = expand(lab)
    lab.edit("recipe.yaml", "devices:", "expect: {closeness: {value: 0, tolerance: 1}}\ndevices:")
    after = expand(lab)
    assert ids(after, "expect") == ["tiny/expect"]
    assert {step.id for step in after.steps.values() if "tiny/expect" in step.after} == {
        id_ for id_ in before.steps if id_ not in ("samples", "tiny/import", "one/pace")
    }
    assert not changed(before, after) & set(before.steps)  # no key depends on it


def test_a_fan_in_waits_for_all_that_is_deployed_there_and_needs_none(lab: Lab) -> None:
    plan = expand(lab, "one", "two")
    assert ids(plan, "measure")[0] == "one/pace"
    pace = plan.steps["two/pace"]
    assert pace.fan_in == ("tiny/float32/packed@two", "tiny/snapped/packed@two")
    assert pace.needs == {}
    assert pace.volatile


def test_a_device_that_is_dropped_takes_its_steps_along(lab: Lab) -> None:
    plan = expand(lab, "one", "two")
    plan.drop_devices({"two"})
    assert {step.device for step in plan.steps.values()} == {None, "one"}


def test_a_parameter_that_nothing_gives_is_told(lab: Lab) -> None:
    schemes(lab, "  a: [needy]\n")
    with pytest.raises(
        PluginError,
        match=r"^quantize needy: nothing gives its parameter 'weather'; there is model, orig",
    ):
        expand(lab)


def test_an_option_changes_what_depends_on_it_and_nothing_else(lab: Lab) -> None:
    assert changed(expand(lab), expand(lab, bits="4")) == {
        "tiny/snapped/snap", "tiny/snapped/packed", "tiny/snapped/packed@one", "one/pace",
        "tiny/snapped/packed@one/weight",
    }  # fmt: skip
    assert changed(expand(lab), expand(lab, factor="2")) == {
        "tiny/float32/packed@one/weight",
        "tiny/snapped/packed@one/weight",
    }


def test_a_scheme_that_is_renamed_keeps_its_keys(lab: Lab) -> None:
    before = expand(lab)
    lab.edit("recipe.yaml", "snapped:", "renamed:")
    after = expand(lab)
    for step in ("snap", "packed", "packed@one", "packed@one/weight"):
        assert after.steps[f"tiny/renamed/{step}"].key == before.steps[f"tiny/snapped/{step}"].key
    assert after.steps["one/pace"].key != before.steps["one/pace"].key, "its numbers bear the names"


def test_more_evaluation_samples_are_no_reason_to_calibrate_again(lab: Lab) -> None:
    schemes(lab, "  a: [ranged]\n")
    lab.edit("recipe.yaml", "measure: [", "measure: [{accuracy: {metric: closeness}}, ")
    before = expand(lab, digests={"calibration": "c", "evaluation": "e3"})
    after = expand(lab, digests={"calibration": "c", "evaluation": "e5"}, evaluation_count="5")
    kinds = {after.steps[step].kind for step in changed(before, after)}
    assert {"samples", "reference", "upload"} <= kinds
    assert not {"calibrate", "quantize", "compile"} & kinds


def test_another_fingerprint_measures_again_and_computes_nothing(lab: Lab) -> None:
    loaded, plugins = recipe.load(lab.recipe)
    call = inventory.load(lab.folder / "devices.yaml", plugins)["one"]

    def with_fingerprint(text: str) -> Plan:
        found = inventory.open_device("one", call).capabilities()
        return make_plan(
            loaded,
            [DeviceInPlan("one", call, Capabilities(**{**vars(found), "fingerprint": text}))],
        )

    assert {
        step.split("@")[-1] for step in changed(with_fingerprint("a"), with_fingerprint("b"))
    } == {
        "one",
        "one/pace",
        "one/weight",
    }


def cpu(arch: str, *features: str, version: str = "1.23.0") -> Capabilities:
    return Capabilities(
        arch, "Linux", "cpu", 4, features, 1000.0, "3.11", "2.0", {"onnxruntime": version}, "f"
    )


@pytest.mark.parametrize(
    ("capabilities", "saturates"),
    [
        (cpu("x86_64", "avx2"), True),
        (cpu("x86_64", "avx512_vnni"), False),
        (cpu("x86_64", "avx_vnni"), False),
        (cpu("aarch64", "asimd"), False),
        (None, False),
    ],
)
def test_eight_bit_products_saturate_on_an_x86_without_vnni(
    capabilities: Capabilities | None, saturates: bool
) -> None:
    assert target_of(capabilities).saturates is saturates


@pytest.mark.parametrize(
    ("version", "opset", "ir_version"),
    # the table in ONNX Runtime's documentation of its compatibility
    [("1.16.3", 19, 9), ("1.17.0", 20, 9), ("1.18.1", 21, 10), ("1.20.1", 21, 10), ("1.22.0", 23, 11),
     ("1.31.0", 24, 12), ("1.32.0", 28, 14), ("1.99.0", 28, 14)],
)  # fmt: skip
def test_a_runtime_loads_up_to_its_opset(version: str, opset: int, ir_version: int) -> None:
    platform = platform_of(cpu("x86_64", version=version), "onnxruntime")
    assert (platform.max_opset, platform.max_ir_version) == (opset, ir_version)


def test_the_runtime_of_this_machine_loads_what_its_version_says() -> None:
    platform = platform_of(cpu("x86_64", version=onnxruntime.__version__), "onnxruntime")
    graph = onnx.parser.parse_graph("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    opset = onnx.helper.make_opsetid("", platform.max_opset)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=platform.max_ir_version)
    assert onnxruntime.InferenceSession(model.SerializeToString()).get_inputs()[0].name == "x"


def test_float_outputs_are_computed_anew_when_the_code_that_computes_them_changes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = "\n\ndef near(deployed, float_outputs):\n    return []\n"
    lab.write("stages.py", scratch_lab.PLUGIN + '    register("measure", near)\n' + near)
    lab.edit("recipe.yaml", "measure: [pace,", "measure: [near, pace,")
    before = expand(lab).steps["tiny/reference"].key
    assert expand(lab).steps["tiny/reference"].key == before
    hashed: list[str] = []
    monkeypatch.setattr(code_digest, "_digest", lambda files: hashed.extend(files) or "another")
    assert expand(lab).steps["tiny/reference"].key != before
    assert "qpipe/engine/float_reference.py" in hashed


@pytest.mark.parametrize("version", ["", "unknown", "2"])
def test_a_runtime_of_unknown_version_gets_what_is_widely_loaded(version: str) -> None:
    platform = platform_of(cpu("x86_64", version=version), "onnxruntime")
    assert (platform.max_opset, platform.max_ir_version) == (
        Platform.max_opset,
        Platform.max_ir_version,
    )


def test_every_step_names_what_it_needs_by_parameter(lab: Lab) -> None:
    plan = expand(lab)
    weight: Step = plan.steps["tiny/snapped/packed@one/weight"]
    assert weight.needs == {"deployed": "tiny/snapped/packed@one"}
    assert plan.steps["tiny/snapped/packed@one"].needs == {"build": "tiny/snapped/packed"}
