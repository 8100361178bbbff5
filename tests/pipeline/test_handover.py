"""From a run in a lab to the exported folder: the file that was measured, or one line that says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import Lab

from qpipe.engine import stage_results
from qpipe.engine.events import Event
from qpipe.engine.recorder import Recorder
from qpipe.engine.request import Request, ResolvedRequest, resolve_request
from qpipe.engine.run import Finished, run_recipe
from qpipe.errors import QpipeError
from qpipe.export.from_run import hand_over
from qpipe.storage.results import Store
from qpipe.types import Build, Measurement

DB = Path(".qpipe/results.db")
NOISE = {"calibration_count": 2, "evaluation_count": 3, "data": None, "sources": []}
SNAPPED = {"device": "one", "scheme": "snapped", "model": None, "build": None}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return scratch_lab.lab(tmp_path)


def run(new: bool = False) -> tuple[ResolvedRequest, Finished]:
    resolved = resolve_request(Request(Path("recipe.yaml"), new=new))
    with Store(DB) as store:
        return resolved, run_recipe(resolved, store, lambda _: None)


def export(resolved: ResolvedRequest, run_id: str) -> None:
    with Store(DB) as store:
        hand_over(store, run_id, SNAPPED, resolved.cache, Path("shipped"))


def recorder(store: Store, resolved: ResolvedRequest, finished: Finished, run_id: str) -> Recorder:
    """Of another run of the same plan."""
    capabilities = {
        name: row["capabilities"] for name in resolved.devices if (row := store.device(name))
    }
    return Recorder(
        store,
        run_id,
        finished.plan,
        cache=resolved.cache,
        capabilities=capabilities,
    )


def another_run(store: Store) -> str:
    return store.new_run("lab", recipe_path="", recipe_digest="", recipe_text="", versions={})


def test_the_folder_holds_the_build_that_was_measured(lab: Lab) -> None:
    resolved, finished = run()
    export(resolved, finished.run)
    done = subprocess.run(
        [sys.executable, "shipped/example.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads(Path("shipped/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["run"]["id"], manifest["measured"]["scheme"]) == (finished.run, "snapped")
    assert manifest["preprocessing"] == {
        "stage": {"kind": "samples", "name": "noise", "options": NOISE},
        "decode": {"reason": "its stage gives no function that decodes a file"},
        "inputs": {"x": {"mean": [0.0], "std": [1.0], "layout": "none", "dtype": "float32"}},
    }


def test_a_model_with_samples_of_its_own_is_exported_with_those(lab: Lab) -> None:
    own = "{tiny: {}, samples: {noise: {evaluation_count: %d}}}"
    lab.edit("recipe.yaml", "{tiny: tiny}", f"{{tiny: {own % 3}, other: {own % 2}}}")
    resolved, finished = run()
    for model, count in (("tiny", 3), ("other", 2)):
        with Store(DB) as store:
            manifest = hand_over(
                store, finished.run, {**SNAPPED, "model": model}, resolved.cache, Path(model)
            )
        assert manifest["golden"]["samples"] == [f"e{i}" for i in range(count)]


def test_another_build_in_its_place_is_refused(lab: Lab) -> None:
    resolved, finished = run()
    key = finished.plan.steps["tiny/snapped/packed"].key
    build = resolved.cache.value_folder("compile", key)
    model = (build / "model.onnx").read_bytes()
    resolved.cache.remove("compile", key)
    with resolved.cache.put("compile", key) as out:
        (out / "model.onnx").write_bytes(
            model + b"\x72\x00"
        )  # an empty field that ONNX does not know
        Build.write(
            out,
            {"runtime": "onnxruntime", "runner": "none.py", "model": "model.onnx", "options": {}},
        )
    with pytest.raises(QpipeError) as error:
        export(resolved, finished.run)
    cache = resolved.cache.root
    assert str(error.value) == (
        f"export: the build of tiny/snapped/packed in {cache} is not the one measured; run the recipe again"
    )
    assert not Path("shipped").exists()


def test_a_run_that_found_all_in_the_cache_can_be_exported(lab: Lab) -> None:
    lab.edit("recipe.yaml", "measure: [pace, {", "measure: [{")
    lab.edit("recipe.yaml", "{latency_ms: min, weight: min}", "{weight: min}")
    resolved, finished = run()
    with Store(DB) as store:
        again = another_run(store)
        recording = recorder(store, resolved, finished, again)
        recording.record_plan()
        for step in finished.plan.steps.values():
            if step.kind == "measure":
                recording.record_event(Event(step.id, "cached"))
                folder = resolved.cache.value_folder("measure", step.key)
                recording.record_measurements(step, stage_results.read("measure", folder))
    export(resolved, again)
    assert Path("shipped/model.onnx").exists()


def test_all_steps_are_known_before_the_first_runs(lab: Lab) -> None:
    resolved, finished = run()
    with Store(DB) as store:
        again = another_run(store)
        recorder(store, resolved, finished, again).record_plan()
        steps = store.steps(again)
    assert [step["step"] for step in steps] == list(finished.plan.steps)
    assert {step["state"] for step in steps} == {"pending"}
    for step in steps:
        planned = finished.plan.steps[step["step"]]
        assert (step["kind"], step["key"], step["device"]) == (
            planned.kind,
            planned.key,
            planned.device,
        )
        assert step["key_fields"] == json.loads(json.dumps(dict(planned.fields)))


def test_a_run_that_goes_on_keeps_what_it_is_through_with(lab: Lab) -> None:
    resolved, finished = run()
    with Store(DB) as store:
        store.record_step(
            finished.run, "tiny/snapped/snap", state="failed", error="too hot", seconds=3.0
        )
        store.record_step(finished.run, "tiny/snapped/packed", key="of an older recipe")
        recorder(store, resolved, finished, finished.run).record_plan()
        steps = {step["step"]: step for step in store.steps(finished.run)}
    pending = {name for name, step in steps.items() if step["state"] == "pending"}
    assert pending == {"tiny/snapped/snap", "tiny/snapped/packed"}
    assert (steps["tiny/snapped/snap"]["error"], steps["tiny/snapped/snap"]["seconds"]) == (
        None,
        None,
    )
    assert steps["tiny/import"]["seconds"] is not None


def test_a_run_whose_steps_are_not_known_is_one_line(lab: Lab) -> None:
    resolved, _ = run()
    with Store(DB) as store:
        bare = another_run(store)
        place = {"model": "tiny", "scheme": "snapped", "build": "packed", "device": "one"}
        store.record_measurements(bare, place, [Measurement("weight", 1.0, "B")])
    with pytest.raises(QpipeError) as error:
        export(resolved, bare)
    assert str(error.value) == (
        f"export: run {bare} has no record of how tiny/snapped/packed@one was made; run the recipe again"
    )


def test_rows_that_only_a_sweep_tells_apart_are_one_line(lab: Lab) -> None:
    resolved, _ = run()
    with Store(DB) as store:
        swept = another_run(store)
        for seed in ("1", "2"):
            place = {
                "model": "tiny",
                "scheme": "snapped",
                "build": "packed",
                "device": "one",
                "seed": seed,
            }
            store.record_measurements(swept, place, [Measurement("weight", 1.0, "B")])
    with pytest.raises(
        QpipeError, match=r"^export: several rows of a sweep match; export from a run"
    ):
        export(resolved, swept)
