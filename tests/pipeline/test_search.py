"""`qpipe search`: what is varied, what is kept, and a search on a tiny network that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qpipe.engine.events import Event
from qpipe.engine.request import Request
from qpipe.errors import QpipeError
from qpipe.recipe import recipe
from qpipe.search.discoveries import discoveries
from qpipe.search.front import survivors
from qpipe.search.search import Budget, Search
from qpipe.search.space import domains_of, space_of
from qpipe.storage.rows import TrialRow
from qpipe.storage.trials import TrialStore
from shell import Shell

PLUGIN = '''
"""A network, and a quantizer whose score is known."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

import qpipe

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1,4] x) => (float[1,4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}>
{ y = Mul(x, w) }
"""


def noise(*, evaluation_count: int = 9) -> qpipe.Dataset:
    """Random numbers."""
    random = np.random.default_rng(0)
    part = lambda name, count: [
        qpipe.Sample(f"{name}{i}", {"x": random.random(4, np.float32)}) for i in range(count)
    ]
    return qpipe.Dataset(part("c", 2), part("e", evaluation_count), {"x": qpipe.Preprocessing()})


def tiny() -> ir.Model:
    """Four products."""
    return ir.from_onnx_text(NETWORK)


def flip(model: ir.Model) -> ir.Model:
    """A transform that helps."""
    model.metadata_props["flip"] = "1"
    return model


def snap(
    model: ir.Model,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 8,
    mode: Literal["near", "down"] = "down",
    count: int = 5,
    exclude: list[str] = [],
) -> ir.Model:
    """Quantize in name."""
    model.metadata_props["bits"] = str(bits)
    model.metadata_props["near"] = str(int(mode == "near"))
    return model


def pack(model: ir.Model, workdir: Path) -> qpipe.Build:
    """Write the network as a build that says what it is worth."""
    ir.save(model, workdir / "model.onnx")
    marks = model.metadata_props
    worth = int(marks.get("bits", 32)) + 2 * int(marks.get("near", 0)) + 3 * int(marks.get("flip", 0))
    return qpipe.Build.write(workdir, {
        "runtime": "onnxruntime", "runner": "none.py", "model": "model.onnx", "options": {},
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 4]}],
        "worth": worth, "bits": int(marks.get("bits", 32)),
    })


def weigh(deployed: qpipe.Deployed, evaluation_samples: object) -> list[qpipe.Measurement]:
    """Give the size, exactly, and the score."""
    manifest = deployed.build.manifest
    seen = sum(1 for _ in evaluation_samples)
    return [
        qpipe.Measurement("bits", manifest["bits"], "b", n=1),
        qpipe.Measurement("worth", manifest["worth"], "", n=1, better="max", detail={"samples": seen}),
    ]


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("samples", noise)
    register("import", tiny)
    register("transform", flip)
    register("quantize", snap)
    register("compile", pack)
    register("measure", weigh, gives=["bits", "worth"])
'''
RECIPE = """
plugins: [stages.py]
variables: {few: 5}
samples: noise
models: {tiny: tiny}
schemes: {eight: [{snap: {exclude: [a], count: "${few}"}}], five: [flip, {snap: {bits: 5}}]}
builds: {packed: pack}
measure: [weigh]
pareto: {worth: max, bits: min}
devices: [board]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages.py").write_text(PLUGIN, encoding="utf-8")
    # this machine without those who measure on it meanwhile
    local = f"local: {{local: {{folder: {tmp_path}/local, lock: {tmp_path}/lock}}}}"
    (tmp_path / "devices.yaml").write_text(f"board: 'null'\n{local}\n", encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def test_chains_are_made_of_the_parts_of_those_of_the_recipe_and_options_of_their_choices(
    folder: Path,
) -> None:
    loaded, plugins = recipe.load(Path("r.yaml"))
    space = space_of(loaded, plugins)
    assert {"snap", "flip snap", "mixed", "flip mixed"} == set(space.chains)
    domains = domains_of(plugins.stage("quantize", "snap"))
    assert {name: list(domain.choices) for name, domain in domains.items()} == {
        "bits": [2, 3, 4, 5, 6, 7, 8],
        "mode": ["near", "down"],
    }
    share = domains_of(plugins.stage("quantize", "mixed"))["size"]
    assert (share.low, share.high) == (0.05, 1.0)
    parameters = space.parameters(loaded.schemes["eight"])
    assert parameters == {"chain": "snap", "snap.bits": 8, "snap.mode": "down"}
    assert space.chain(parameters) == [{"snap": {"exclude": ["a"], "bits": 8, "mode": "down"}}]


def trial(number: int, **metrics: float) -> TrialRow:
    return {
        "search": "s", "number": number, "scheme": f"trial-{number}", "parameters": {}, "chain": [],
        "metrics": metrics or None, "run": "",
    }  # fmt: skip


def test_the_first_fronts_survive_and_a_cost_of_less_than_3_percent_is_none() -> None:
    trials = [
        trial(0, ms=10.0, score=0.5), trial(1, ms=10.05, score=0.6), trial(2), trial(3, ms=20.0, score=0.7),
        trial(4, ms=21.0, score=0.4), trial(5, ms=10.05, score=0.6),
    ]  # fmt: skip
    kept = survivors(trials, {"ms": "min", "score": "max"}, 3)
    assert [row["number"] for row in kept] == [1, 3, 5]
    kept = survivors(trials, {"ms": "min", "score": "max"}, 9)
    assert [row["number"] for row in kept] == [1, 3, 5], "0 and 4 are on no front of these two"
    front = [trial(number, ms=2.0**number, score=float(number)) for number in range(9)]
    kept = survivors(front, {"ms": "min", "score": "max"}, 3)
    assert sorted(row["number"] for row in kept) == [0, 4, 8]


def test_a_search_that_is_interrupted_goes_on_and_finds_what_no_scheme_dominates(
    folder: Path,
) -> None:
    request = Request(recipe=Path("r.yaml"))
    out = Path("r-search.yaml")

    def interrupt(event: Event) -> None:
        if event.step.startswith("tiny/trial-") and event.what == "done":
            raise KeyboardInterrupt

    with TrialStore(request.db) as store:
        search = Search(request, store, out, Budget(600, 8), 4, listen=interrupt)
        with pytest.raises(KeyboardInterrupt):
            search.run()
        assert [row["scheme"] for row in store.trials(search.digest)] == ["eight", "five"]
        runs = store.runs()

        search = Search(request, store, out, Budget(600, 8), 4)
        finished = search.run()
        assert finished.state == "done"
        trials = store.trials(search.digest)
        assert [row["number"] for row in trials] == list(range(10))
        chains = [str(row["chain"]) for row in trials]
        assert len(set(chains)) == len(chains)
        # the batch that was cut is the same run, which went on
        assert runs[0]["id"] in {row["run"] for row in trials[2:]}
        for row in trials:
            kind, *_ = row["chain"][-1]
            if row["metrics"] is not None and kind == "snap":
                options = row["chain"][-1]["snap"]
                worth = (
                    options["bits"]
                    + 2 * (options["mode"] == "near")
                    + 3 * ("flip" in row["chain"][0])
                )
                assert row["metrics"] == {"bits": options["bits"], "worth": worth}
        # trials have few samples on this machine; the best have all of them, on the board
        first = store.measurements(trials[0]["run"])
        assert {row["detail"].get("samples") for row in first if row["metric"] == "worth"} == {4}
        confirmed = store.measurements(finished.run)
        assert {row["device"] for row in confirmed} == {"board"}
        assert {row["detail"].get("samples") for row in confirmed if row["metric"] == "worth"} == {
            9
        }
        found = discoveries(store, finished.run, search.recipe.schemes)
    assert any(not discovery.dominated_by for discovery in found)
    written = yaml.safe_load(out.read_text())
    assert written["variables"] == {"few": 5}
    assert {"eight", "five", *(discovery.scheme for discovery in found)} <= set(written["schemes"])


def test_a_recipe_of_two_models_is_refused(folder: Path) -> None:
    Path("r.yaml").write_text(
        RECIPE.replace("{tiny: tiny}", "{tiny: tiny, other: tiny}"), encoding="utf-8"
    )
    request = Request(recipe=Path("r.yaml"))
    with TrialStore(request.db) as store, pytest.raises(QpipeError) as error:
        Search(request, store, Path("r-search.yaml"), Budget(60), 4)
    assert str(error.value) == "r.yaml: a search has one model, not tiny, other; remove the others"


def test_the_written_recipe_lies_beside_the_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(monkeypatch, capsys)
    _, told = shell.run("search", "r.yaml", "--out", "elsewhere/r.yaml", status=2)
    assert "paths in a recipe are relative to it; give a file in" in told
