"""What `qpipe new` prints of the recipe that it wrote: the network, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from qpipe.errors import shown
from qpipe.start.feeding_choice import PICTURE_KINDS, FeedingChoice, describe_choice
from qpipe.start.network_facts import Network, Picture, Tensor
from qpipe.start.new_recipe import NewRecipe
from qpipe.start.recipe_text import FLOOR_SCHEME, Draft, inventory_entry, plain

Row = tuple[str, str]  # what it is, and what was found
FeedingRow = tuple[str, str, str, str]  # the feeding, its score, the interval, the probability
INTERVAL = "95 %"
PROBABILITY = "p(label)"  # the mean probability that the network gives to the label

NO_INTEGER_OPERATORS = "nothing: no scheme will be smaller or faster than float"
MAX_OPERATORS = 5  # operators that are named; the rest is counted


def network_table(new_recipe: NewRecipe) -> list[Row]:
    """Return what was found out about the network and its samples, a row each."""
    rows = [
        *_file_rows(new_recipe.draft.network),
        *_tensor_rows(new_recipe),
        *_operator_rows(new_recipe),
        *_eight_bit_rows(new_recipe),
        *_sample_rows(new_recipe.draft),
    ]
    return [(name, plain(text)) for name, text in rows]


def _file_rows(network: Network) -> Iterator[Row]:
    file = f"{shown(network.path)}: {network.size / 1e6:.2f} MB"
    if network.producer:
        file += f", by {network.producer}"
    yield "file", file
    yield "versions", f"opset {network.opset}, IR {network.ir_version}"


def _tensor_rows(new_recipe: NewRecipe) -> Iterator[Row]:
    draft = new_recipe.draft
    for value in draft.network.inputs:
        yield "input", _describe_input(value, draft.shapes, draft.network.picture)
    for value in new_recipe.outputs:
        yield "output", str(value)


def _operator_rows(new_recipe: NewRecipe) -> Iterator[Row]:
    network = new_recipe.draft.network
    integer_operators = _count_operators(new_recipe.covered.integer)
    float_operators = new_recipe.covered.summary().removeprefix("stays float: ")
    yield "parameters", f"{network.parameters:,}"
    yield "operators", _count_operators(network.operators)
    yield "looks like", new_recipe.draft.guess.words
    yield "integer", integer_operators or NO_INTEGER_OPERATORS
    yield "float", float_operators or "nothing"
    eight_bits = new_recipe.trial.eight_bits
    time = eight_bits.time if eight_bits is not None else None
    work = new_recipe.covered.work_summary(is_timed=time is not None)
    if work:
        yield "int8 work", work
    if time is not None:
        yield "int8 time", str(time)


def _eight_bit_rows(new_recipe: NewRecipe) -> Iterator[Row]:
    eight_bits = new_recipe.trial.eight_bits
    if eight_bits is None:
        return
    text = str(eight_bits)
    if not eight_bits.is_bearable:
        text = f"too few: {text}; {FLOOR_SCHEME} in the recipe keeps such layers float"
    yield "8 bits", text


def _sample_rows(draft: Draft) -> Iterator[Row]:
    paths = [f"{option} {shown(path)}" for option, path in draft.source.paths.items()]
    yield "samples", ", ".join(paths)
    if draft.network.is_quantized:
        yield "quantized", "already: use the float network instead, if there is one"
    if draft.source.labels:
        yield "labels", draft.source.labels.description


def next_steps(new_recipe: NewRecipe) -> list[str]:
    """Return what the trial showed and what to do next, in lines."""
    draft = new_recipe.draft
    trial = new_recipe.trial
    lines = []
    if trial.misfit:
        lines.append(f"\nthe network cannot be fed with the samples yet: {trial.misfit}")
    lines += _score_lines(new_recipe)
    if draft.why_not:
        lines.append(f"\nonly {draft.goal} is scored: {plain(draft.why_not)}")
    for name in draft.absent:
        lines.append(
            f"\nthere is no device '{name}' yet; put it into devices.yaml beside the recipe:"
            f"\n  {inventory_entry(name)}"
        )
    written = f"\n{shown(draft.file)} is written"
    unsure = [setting.name for setting in draft.settings if setting.check]
    if unsure:
        written += f"; what the files do not tell is marked CHECK: {', '.join(unsure)}"
    file = shlex.quote(shown(draft.file))
    lines += [
        written,
        f"next: qpipe samples {file}   (what the network is fed)   then: qpipe run {file}",
    ]
    if draft.metric:
        lines.append(
            f"and set expect: {{{draft.goal}: ...}} in it to what the float network should score"
        )
    return lines


def feeding_table(choice: FeedingChoice) -> list[FeedingRow]:
    """Return the feedings that were scored, best first, a row each."""
    rows: list[FeedingRow] = []
    for row in choice.rows:
        score = row.score
        interval = ""
        if score.low is not None and score.high is not None:
            interval = f"{score.low:.3f} to {score.high:.3f}"
        _, probability = row.merit
        shown_probability = f"{probability:.3f}" if row.label_probabilities else ""
        rows.append((row.words, f"{score.value:.3f}", interval, shown_probability))
    return rows


def feeding_columns(choice: FeedingChoice) -> tuple[str, str, str, str]:
    """Return the names of the columns of `feeding_table`."""
    return ("fed as", choice.best.score.metric, INTERVAL, PROBABILITY)


def _score_lines(new_recipe: NewRecipe) -> Iterator[str]:
    """Yield what scores say of the preprocessing, or that nothing says it."""
    trial = new_recipe.trial
    draft = new_recipe.draft
    if new_recipe.choice is not None:
        yield f"\n{describe_choice(new_recipe.choice)}"
        return
    for name, score in trial.scores.items():
        scored = f"{name} {score.value:.3f} on {trial.count} of the samples"
        yield f"\nthe float network scores {scored};"
        yield "if that is less than it should be, check the preprocessing first"
    if draft.source.kind in PICTURE_KINDS and not draft.source.labels and not trial.scores:
        yield "\nwithout labels nothing tells whether the pictures are fed as in training: look at"
        yield "what float predicts (qpipe samples), or give labels to have the feedings scored"


def _describe_input(
    value: Tensor, shapes: Mapping[str, Sequence[int | str]], picture: Picture | None
) -> str:
    text = str(value)
    if value.name in shapes:
        text += f", pinned to [{', '.join(map(str, shapes[value.name]))}]"
    if picture:
        text += f", images as {picture.layout}"
    return text


def _count_operators(operators: Mapping[str, int]) -> str:
    """Return the most frequent operators with their numbers, and how many others there are."""
    by_count = sorted(operators.items(), key=lambda item: -item[1])
    named = [f"{count} {name}" for name, count in by_count[:MAX_OPERATORS]]
    text = ", ".join(named)
    other_count = sum(count for _, count in by_count[MAX_OPERATORS:])
    return f"{text} and {other_count} others" if other_count else text
