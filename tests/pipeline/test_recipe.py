"""A recipe read: what each mistake is told, what paths and variables mean."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import Lab

from qpipe.errors import PluginError, QpipeError, RecipeError
from qpipe.recipe import recipe

RECIPES = Path(__file__).parents[2] / "recipes"
HEAD = "plugins: [stages.py]\nsamples: noise\nmodels: {m: tiny}\n"
TAIL = "schemes: {a: [snap]}\nbuilds: {p: pack}\nmeasure: [weight]\n"
KEYS = ", ".join(recipe.KEYS)
SNAP = "bits, mode, exclude, say, fail, broken, kill, mark, hold"
NAMES = "use letters, digits, '.', '_' and '-'"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return scratch_lab.lab(tmp_path)


def refusal(lab: Lab, text: str, **settings: str) -> str:
    """What is said of that recipe."""
    lab.write("r.yaml", text)
    with pytest.raises((RecipeError, PluginError)) as error:
        recipe.load(Path("r.yaml"), settings)
    return str(error.value)


def schemes(text: str) -> str:
    return HEAD + TAIL.replace("[snap]", text)


REFUSED = {
    "empty": ("", f"r.yaml:1: a recipe is a map of {KEYS}"),
    "a list": ("- a", f"r.yaml:1: a recipe is a map of {KEYS}"),
    "unknown key": (HEAD + "quantise: x\n" + TAIL, f"r.yaml:4: unknown key 'quantise'; there is {KEYS}"),
    "nothing": ("plugins: [stages.py]", "r.yaml:1: key 'samples' is missing; "
                "a recipe needs samples, models, schemes, measure"),
    "no measure": (HEAD + "schemes: {a: []}", "r.yaml:1: key 'measure' is missing; "
                   "a recipe needs samples, models, schemes, measure"),
    "no plugin file": (HEAD.replace("stages", "stage") + TAIL, "r.yaml:1: no such plugin file 'stage.py'; "
                       "give the path of a Python file, relative to the recipe"),
    "plugins no list": (HEAD.replace("[stages.py]", "stages.py") + TAIL, "r.yaml:1: plugins is a list; "
                        "write [stages.py]"),
    "plugin no text": (HEAD.replace("[stages.py]", "[5]") + TAIL, "r.yaml:1: expected text, got 5"),
    "stage near": (HEAD.replace("noise", "noize") + TAIL, "r.yaml:2: no plugin offers samples 'noize'; "
                   "did you mean 'noise'?"),
    "quantize near": (schemes("[snapp]"), "r.yaml:4: no plugin offers quantize 'snapp'; did you mean 'snap'?"),
    "transform near": (schemes("[flipp]"), "r.yaml:4: no plugin offers transform 'flipp'; did you mean 'flip'?"),
    "unknown option": (schemes("[{snap: {bit: 4}}]"), "r.yaml:4: quantize snap: unknown option 'bit'; "
                       f"it takes {SNAP}"),
    "option of a stage without": (schemes("[{flip: {bit: 4}}]"), "r.yaml:4: transform flip: unknown option 'bit'; "
                                  "it takes none"),
    "option type": (schemes("[{snap: {mode: near,\n  say: a,\n  bits: many}}]"), "r.yaml:6: quantize snap: "
                    "option 'bits' is 'many'; give a whole number"),
    "option literal": (schemes("[{snap: {mode: up}}]"), "r.yaml:4: quantize snap: option 'mode' is 'up'; "
                       "give 'near' or 'down'"),
    "option null": (schemes("[{snap: {bits: }}]"), "r.yaml:4: quantize snap: option 'bits' is None; "
                    "give a whole number"),
    "options no map": (schemes("[{snap: [bits]}]"), "r.yaml:4: {'snap': ['bits']} names no transform or "
                       "quantize stage; write name, or {name: {option: value}}"),
    "two names": (schemes("[{snap: {}, flip: {}}]"), "r.yaml:4: {'snap': {}, 'flip': {}} names no transform or "
                  "quantize stage; write name, or {name: {option: value}}"),
    "sweep no map": (schemes("[{snap: {}, sweep: 4}]"), "r.yaml:4: sweep is 4; give options with their values: "
                     "{sweep: {bits: [4, 6, 8]}}"),
    "sweep of none": (schemes("[{snap: {}, sweep: {mode: [near],\n   bits: []}}]"), "r.yaml:5: sweep of 'bits' is []; "
                      "give a list: {sweep: {bits: [4, 6, 8]}}"),
    "sweep twice": (schemes("[{snap: {}, sweep: {bits: [4, 4]}}]"), "r.yaml:4: sweep of 'bits' has a value twice; "
                    "give it once"),
    "sweep of what is set": (schemes("[{snap: {bits: 4}, sweep: {bits: [4, 8]}}]"), "r.yaml:4: option 'bits' has a "
                             "value and is swept; remove one of both"),
    "sweep too large": (schemes(f"[{{snap: {{}}, sweep: {{bits: {list(range(30))}, say: {list('abcdefg')}}}}}]"),
                        "r.yaml:4: the sweeps of 'a' make 210 schemes, at most 200 are allowed; give fewer values, or "
                        "let qpipe search choose"),
    "sweep of no option": (schemes("[{snap: {}, sweep: {bit: [4, 8]}}]"), "r.yaml:4: quantize snap: unknown option "
                           f"'bit'; it takes {SNAP}"),
    "sweep and a scheme of its name": (HEAD + TAIL.replace("{a: [snap]}", "{a: [{snap: {}, sweep: {bits: [4]}}],\n"
                                       " a-bits4: [snap]}"), "r.yaml:5: two schemes are named 'a-bits4'; "
                                       "rename one of them"),
    "a number": (schemes("[8]"), "r.yaml:4: 8 names no transform or quantize stage; "
                 "write name, or {name: {option: value}}"),
    "a list for a stage": (HEAD.replace("noise", "[noise]") + TAIL, "r.yaml:2: ['noise'] names no samples stage; "
                           "write name, or {name: {option: value}}"),
    "transform last": (schemes("[snap, flip]"), "r.yaml:4: a transform follows a quantize stage; put transforms first"),
    "stage of an option": (HEAD + TAIL.replace("[weight]", "[{score: {metric: closenes}}]"), "r.yaml:6: no plugin "
                           "offers metric 'closenes'; did you mean 'closeness'?"),
    "option of a stage of an option": (
        HEAD + TAIL.replace("[weight]", "\n - score:\n     metric:\n       - closeness:\n           powr: 2"),
        "r.yaml:10: metric closeness: unknown option 'powr'; it takes power, table"),
    "bad scheme name": (HEAD + TAIL.replace("a:", "../evil:"), "r.yaml:4: scheme name '../evil' is not allowed; "
                        f"{NAMES}"),
    "bad model name": (HEAD.replace("m:", "m/n:") + TAIL, f"r.yaml:3: model name 'm/n' is not allowed; {NAMES}"),
    "bad build name": (HEAD + TAIL.replace("p:", "'':"), f"r.yaml:5: build name '' is not allowed; {NAMES}"),
    "bad name": ("name: a b\n" + HEAD + TAIL, f"r.yaml:1: recipe name 'a b' is not allowed; {NAMES}"),
    "bad device": (HEAD + TAIL + "devices: [a, b/c]", f"r.yaml:7: device name 'b/c' is not allowed; {NAMES}"),
    "devices no list": (HEAD + TAIL + "devices: local", "r.yaml:7: devices is a list; write [local]"),
    "measure no list": (HEAD + TAIL.replace("[weight]", "weight"), "r.yaml:6: measure is a list; write [weight]"),
    "schemes no map": (HEAD + TAIL.replace("{a: [snap]}", "[snap]"), "r.yaml:4: schemes is a map of names to stages"),
    "models no map": (HEAD.replace("{m: tiny}", "tiny") + TAIL, "r.yaml:3: models is a map of names to stages"),
    "pareto goal": (HEAD + TAIL + "pareto:\n  weight: least", "r.yaml:8: 'weight' is 'least'; it is min or max"),
    "keep text": (HEAD + TAIL + "keep: little", "r.yaml:7: keep: 'little' is no loss; write points from 0 to 100, such as 0.5"),
    "keep too much": (HEAD + TAIL + "keep: 101", "r.yaml:7: keep: 101 is no loss; write points from 0 to 100, such as 0.5"),
    "keep yes": (HEAD + TAIL + "keep: true", "r.yaml:7: keep: True is no loss; write points from 0 to 100, such as 0.5"),
    "pareto no map": (HEAD + TAIL + "pareto: [weight]", "r.yaml:7: pareto is a map of metrics to min or max"),
    "variables no map": (HEAD + TAIL + "variables: [a]", "r.yaml:7: variables is a map of names to values"),
    "unknown variable": ("variables: {bits: 8}\n" + schemes("[{snap: {bits: '${bit}'}}]"),
                         "r.yaml:5: unknown variable 'bit'; did you mean 'bits'?"),
    "unset variable": ("variables: {bits: null}\n" + schemes("[{snap: {bits: '${bits}'}}]"),
                       "r.yaml:5: quantize snap: option 'bits' is not set; run with --set bits=..."),
    "variable in a variable": ("variables: {a: '${env:HOME}'}\n" + HEAD + TAIL,
                               "r.yaml:1: '${env:HOME}' in a variable is not replaced; write it where it is used"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(case: str, lab: Lab) -> None:
    text, message = REFUSED[case]
    assert refusal(lab, text) == message


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("noise", "calibrate", "calibration_count"),
        ("noise", "evaluate", "evaluation_count"),
        ("scenes", "calibrate", "calibration_count"),
        ("images", "evaluate", "evaluation_count"),
        ("images", "colours", "color_order"),
        ("coco", "colours", "color_order"),
    ],
)
def test_the_old_name_of_a_samples_option_is_refused_with_the_new_one(
    stage: str, old: str, new: str, lab: Lab
) -> None:
    text = HEAD.replace("noise", f"{{{stage}: {{{old}: 2}}}}") + TAIL
    message = f"r.yaml:2: samples {stage}: option '{old}' is now named '{new}'"
    assert refusal(lab, text) == message


def test_the_image_recipe_asks_for_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    with pytest.raises(RecipeError) as error:
        recipe.load(Path("recipes/image_classifier.yaml"), {"calibration": ".", "evaluation": "."})
    assert re.fullmatch(
        r"recipes/image_classifier\.yaml:\d+: import onnx: option 'path' is not set; run with --set model=\.\.\.",
        str(error.value),
    )


def test_set_of_an_unknown_variable_names_the_near_one(lab: Lab) -> None:
    text = "variables: {bits: 8}\n" + HEAD + TAIL
    assert (
        refusal(lab, text, bit="4") == "--set bit: no such variable in r.yaml; did you mean 'bits'?"
    )


@pytest.mark.parametrize(
    ("typed", "value"),
    [("4", 4), ("1.5", 1.5), ("true", True), ("", None), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), ("'4'", "4"),
     ("two words", "two words"), ("[1", "[1"), ("a: b: c", "a: b: c"), ("!!bool maybe", "!!bool maybe"),
     ("!!python/name:os.system x", "!!python/name:os.system x")],
)  # fmt: skip
def test_a_value_given_with_set_is_yaml(typed: str, value: object, lab: Lab) -> None:
    lab.write("r.yaml", "variables: {v: 0}\n" + HEAD + TAIL)
    loaded, _ = recipe.load(Path("r.yaml"), {"v": typed})
    assert loaded.variables == {"v": value}
    assert type(loaded.variables["v"]) is type(value) or isinstance(value, str)


def test_a_path_in_a_recipe_is_relative_to_it_and_one_given_with_set_to_the_working_directory(
    lab: Lab,
) -> None:
    text = "variables: {file: null}\n" + HEAD.replace("tiny}", "{tiny: {path: FILE}}}") + TAIL
    lab.write("deep/r.yaml", text.replace("stages.py", "../stages.py").replace("FILE", "m.onnx"))
    lab.write("deep/s.yaml", text.replace("stages.py", "../stages.py").replace("FILE", "'${file}'"))
    for place in ("m.onnx", "deep/m.onnx"):
        lab.write(place, "")
    inside, _ = recipe.load(Path("deep/r.yaml"))
    given, _ = recipe.load(Path("deep/s.yaml"), {"file": "m.onnx"})
    assert inside.models["m"].options["path"] == lab.folder / "deep" / "m.onnx"
    assert given.models["m"].options["path"] == lab.folder / "m.onnx"


def test_an_absolute_path_stays(lab: Lab) -> None:
    there = lab.write("models/m.onnx", "")
    lab.write(
        "deep/r.yaml",
        HEAD.replace("stages", "../stages").replace("tiny}", f"{{tiny: {{path: {there}}}}}}}")
        + TAIL,
    )
    assert recipe.load(Path("deep/r.yaml"))[0].models["m"].options["path"] == there


def test_paths_in_a_list_are_relative_to_the_recipe_too(lab: Lab) -> None:
    lab.write(
        "deep/r.yaml",
        HEAD.replace("stages", "../stages").replace("noise", "{noise: {sources: [a, /tmp]}}")
        + TAIL,
    )
    lab.write("deep/a", "")
    assert recipe.load(Path("deep/r.yaml"))[0].samples.options["sources"] == [
        lab.folder / "deep" / "a",
        Path("/tmp"),
    ]


def test_a_file_to_read_that_is_not_there_is_told_before_anything_runs(lab: Lab) -> None:
    message = (
        "r.yaml:3: import tiny: option 'path': no such file or folder: m.onnx; "
        "give an existing path, relative to the recipe (with --set, to the working directory)"
    )
    assert refusal(lab, HEAD.replace("tiny}", "{tiny: {path: m.onnx}}}") + TAIL) == message


def test_a_sweep_is_a_scheme_for_each_combination_of_its_values(lab: Lab) -> None:
    swept = "[flip, {snap: {say: x}, sweep: {bits: [4, 8], mode: [near, down]}}, {snap: , sweep: {bits: [6]}}]"
    lab.write("r.yaml", schemes(swept))
    loaded, _ = recipe.load(Path("r.yaml"))
    values = {
        name: [dict(call.options) for call in chain] for name, chain in loaded.schemes.items()
    }
    assert list(values) == ["float32", *(
        f"a-bits{bits}-{mode}-bits6" for bits in (4, 8) for mode in ("near", "down"))]  # fmt: skip
    _, first, last = values["a-bits8-near-bits6"]
    assert (first["bits"], first["mode"], first["say"]) == (8, "near", "x")
    assert (last["bits"], last["mode"]) == (6, "near")


def test_options_are_filled_in_with_their_defaults(lab: Lab) -> None:
    loaded, _ = recipe.load(lab.recipe)
    assert loaded.samples.options == {
        "calibration_count": 2,
        "evaluation_count": 3,
        "data": None,
        "sources": [],
    }


def test_the_smallest_recipe_gets_the_rest(lab: Lab) -> None:
    lab.write("small.yaml", HEAD + "schemes: {a: snap}\nmeasure: [weight]\n")
    loaded, _ = recipe.load(Path("small.yaml"))
    assert loaded.name == "small"
    assert (loaded.calibrate.name, loaded.deploy.name, list(loaded.builds)) == (
        "histogram",
        "copy",
        ["ort"],
    )
    assert loaded.devices == ["local"]
    assert loaded.pareto == {"latency_ms": "min", "size_mb": "min", "agreement": "max"}


@pytest.mark.parametrize("name", ["a", "float32"])
def test_the_float_network_is_a_scheme_where_none_is_named_for_it(name: str, lab: Lab) -> None:
    lab.write("r.yaml", HEAD + TAIL.replace("a:", f"{name}:"))
    loaded, _ = recipe.load(Path("r.yaml"))
    assert len(loaded.floats) == 1
    assert len(loaded.schemes) == 2
    assert [call.name for call in loaded.schemes[name]] == ["snap"]


def test_only_keeps_the_float_network_and_suggests(lab: Lab) -> None:
    loaded, _ = recipe.load(lab.recipe)
    assert list(loaded.narrowed(["snapped"], []).schemes) == ["float32", "snapped"]
    assert list(loaded.narrowed(["float32"], []).schemes) == ["float32"]
    with pytest.raises(RecipeError) as error:
        loaded.narrowed(["snaped"], [])
    assert str(error.value) == "--only: no scheme 'snaped' in recipe.yaml; did you mean 'snapped'?"


def test_the_digest_is_of_the_meaning(lab: Lab) -> None:
    before = recipe.load(lab.recipe)[0].digest
    lab.write(
        "same.yaml",
        "# a comment\n"
        + lab.recipe.read_text().replace("${bits}", "8").replace("{bits: 8", "{bits: 7"),
    )
    assert recipe.load(Path("same.yaml"))[0].digest == before
    assert recipe.load(lab.recipe, {"bits": "8"})[0].digest == before
    assert recipe.load(lab.recipe, {"bits": "4"})[0].digest != before


def test_two_plugin_files_of_one_name_are_two(lab: Lab) -> None:
    lab.write("a/stages.py", scratch_lab.PLUGIN)
    lab.write("b/stages.py", "import qpipe\n\ndef other(model):\n    '''Another.'''\n    return model\n\n"
              "@qpipe.hookimpl\ndef register_stages(register):\n    register('quantize', other)\n")  # fmt: skip
    lab.write(
        "r.yaml",
        HEAD.replace("[stages.py]", "[a/stages.py, b/stages.py]")
        + TAIL.replace("[snap]", "[snap, other]"),
    )
    loaded, _ = recipe.load(Path("r.yaml"))
    modules = [call.stage.function.__module__ for call in loaded.schemes["a"]]
    assert len(set(modules)) == 2


MUTATIONS = (
    "", "\n", "\t", ": ", "- ", "{", "}", "[", "]", "${", "'", '"', "&a ", "*a", "!!python/name:os.x ", "!!int ",
    "null", "9" * 30, "../", "2026-13-45", ".nan", "<<: ", "? ", "|", ">", "%", "@", "`", "\x00", "é", "#", ",",
)  # fmt: skip


def mutated(text: str, seed: int) -> str:
    """The text with a few characters cut out, put in, doubled or swapped."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(text)), chance.choice((0, 1, 1, 2, 5, 30))
        put = chance.choice(
            (*MUTATIONS, text[at : at + length] * 2, text[chance.randrange(len(text)) :][:length])
        )
        text = text[:at] + put + text[at + length :]
    return text


@pytest.mark.parametrize(
    ("written", "keep"), [("", None), ("keep: 0.5", 0.5), ("keep: 0.5%", 0.5), ("keep: 0", 0.0)]
)
def test_what_may_be_lost_is_read_in_points(lab: Lab, written: str, keep: float | None) -> None:
    lab.write("r.yaml", HEAD + TAIL + written)
    loaded, _ = recipe.load(Path("r.yaml"))
    assert loaded.keep == keep


@pytest.mark.parametrize("seeds", [range(150), range(150, 300)], ids=str)
def test_a_damaged_recipe_is_an_error_of_ours_or_a_recipe(seeds: range, lab: Lab) -> None:
    shipped = (RECIPES / "mobilenet_ssd.yaml").read_text(encoding="utf-8")
    small = lab.recipe.read_text(encoding="utf-8")
    for seed in seeds:
        lab.write("r.yaml", mutated(shipped if seed % 2 else small, seed))
        try:
            assert recipe.load(Path("r.yaml"))[0].digest
        except QpipeError as error:
            said = str(error)
        else:
            continue
        assert "\n" not in said


def test_an_objective_may_have_a_margin(lab: Lab) -> None:
    lab.write("r.yaml", HEAD + TAIL + "pareto: {weight: {goal: min, margin: 2%}}")
    loaded, _ = recipe.load(Path("r.yaml"))
    assert (loaded.pareto, loaded.margins) == ({"weight": "min"}, {"weight": 0.02})


@pytest.mark.parametrize("margin", ["much", "-1%", "1.5"])
def test_a_margin_is_a_part_of_the_value(margin: str, lab: Lab) -> None:
    text = HEAD + TAIL + f"pareto:\n  weight: {{goal: min, margin: {margin}}}"
    assert re.fullmatch(
        r"r.yaml:8: margin .* of 'weight'; write it as 2% or 0.02", refusal(lab, text)
    )
