"""Search for schemes: an optimizer proposes, few samples on this machine judge, devices decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpipe.digests import digest_json
from qpipe.engine.events import Listener, Notify
from qpipe.engine.request import Request, resolve_recipe, resolve_request
from qpipe.engine.run import Finished, run_recipe
from qpipe.engine.run_lock import lock_run
from qpipe.errors import QpipeError, shown
from qpipe.recipe import recipe as recipes
from qpipe.recipe import yaml_document
from qpipe.recipe.recipe import Recipe
from qpipe.recipe.stage_call import Call
from qpipe.search import written_recipe
from qpipe.search.front import losses, survivors
from qpipe.search.space import Parameters, Space, space_of
from qpipe.storage.rows import TrialRow
from qpipe.storage.trials import TrialStore

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

HOST = "local"
FEW_ROUNDS = 2
BATCH = 4  # trials that are measured side by side
MOST_SURVIVORS = 6
SEARCH_SHARE = 0.6  # of the time; the rest is for the device
MOST_PROPOSALS = 50  # in a row that were tried already


@dataclass(frozen=True)
class Budget:
    """How much is tried: whatever ends first."""

    seconds: float
    trials: int | None = None  # beside the schemes of the recipe


@dataclass
class Search:
    """The search beside the schemes of one recipe."""

    request: Request
    store: TrialStore
    out: Path  # the recipe with what was found
    budget: Budget
    samples: int  # for a trial
    listen: Listener = lambda _: None
    notify: Notify = lambda _: None
    clock: Callable[[], float] = time.monotonic
    trials: list[TrialRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.source = yaml_document.read(self.request.recipe)
        self.recipe, plugins = recipes.from_document(self.source, self.request.settings)
        self.space: Space = space_of(self.recipe, plugins)
        self._check()
        parts = [self.recipe.digest, self.samples, self.space.digest]
        self.digest = digest_json(parts)
        self.trials = self.store.trials(self.digest)

    def _check(self) -> None:
        where = shown(self.request.recipe)
        if len(self.recipe.models) > 1:
            names = ", ".join(self.recipe.models)
            raise QpipeError(f"{where}: a search has one model, not {names}; remove the others")
        if len(self.recipe.builds) > 1:
            names = ", ".join(self.recipe.builds)
            raise QpipeError(f"{where}: a search has one build, not {names}; remove the others")
        if not self.recipe.pareto:
            raise QpipeError(f"{where}: a search needs objectives; name them under pareto")
        if not self.space.chains:
            raise QpipeError(f"{where}: no chain has a quantize stage; add one to search beside")

    def run(self) -> Finished:
        """Try schemes until the budget is spent, then measure the best beside those of the recipe.

        What was tried before, by a search that was interrupted or had another budget, counts.
        """
        resolve_request(self.request)  # its mistakes come first
        _optuna()
        folder = self.request.db.parent / "search" / self.digest
        lock = lock_run(folder)
        if lock is None:
            raise QpipeError(f"{shown(self.request.recipe)}: another process searches already")
        with lock:
            self.trials = self.store.trials(self.digest)
            if self.trials:
                self.notify(f"{len(self.trials)} trials were made before; the search goes on")
            self._write_out()  # whether it can be written shows before anything is tried
            self._try_batch(self._schemes_of_recipe())
            self._check_measured()
            while not self._is_over():
                batch = self._proposals()
                if not batch:
                    self.notify("nothing is left to try")
                    break
                self._try_batch(batch)
                self._write_out()
            self._write_out()
            return self._confirm()

    def _check_measured(self) -> None:
        """Raise QpipeError where no scheme of the recipe works: then none beside it does."""
        if self.trials and all(trial["metrics"] is None for trial in self.trials):
            where = shown(self.request.recipe)
            run = self.trials[0]["run"]
            objectives = ", ".join(self.recipe.pareto)
            raise QpipeError(
                f"{where}: no scheme has all of {objectives} on this machine; "
                f"see qpipe show --run {run}"
            )

    def _is_over(self) -> bool:
        if self.clock() - self.started > SEARCH_SHARE * self.budget.seconds:
            return True
        return self.budget.trials is not None and len(self._proposed()) >= self.budget.trials

    def _proposed(self) -> list[TrialRow]:
        """Return the trials that are none of the recipe's schemes."""
        return [trial for trial in self.trials if trial["scheme"] not in self.recipe.schemes]

    # ---- what to try

    def _schemes_of_recipe(self) -> list[TrialRow]:
        """Return those schemes of the recipe that the space has, and that were not tried yet."""
        tried = {trial["scheme"] for trial in self.trials}
        rows: list[TrialRow] = []
        for scheme, chain in self.recipe.schemes.items():
            parameters = self.space.parameters(chain)
            if parameters is not None and scheme not in tried:
                rows.append(self._row(len(self.trials) + len(rows), scheme, parameters))
        return rows

    def _proposals(self) -> list[TrialRow]:
        """Return schemes that the optimizer proposes and that were not tried yet."""
        study = self._study()
        chains = [trial["chain"] for trial in self.trials]
        rows: list[TrialRow] = []
        size = BATCH
        if self.budget.trials is not None:
            size = min(BATCH, self.budget.trials - len(self._proposed()))
        for _ in range(MOST_PROPOSALS):
            number = len(self.trials) + len(rows)
            row = self._row(number, f"trial-{number}", self.space.suggest(study.ask()))
            if row["chain"] not in chains:
                chains.append(row["chain"])
                rows.append(row)
            if len(rows) == size:
                break
        return rows

    def _study(self) -> Study:
        """Return the optimizer, who knows all trials that were made.

        It is seeded by their number: a search that was killed proposes the same anew.
        """
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=len(self.trials), n_startup_trials=2 * BATCH)
        study: Study = optuna.create_study(
            directions=["minimize"] * len(self.recipe.pareto), sampler=sampler
        )
        study.add_trials([self._frozen(trial) for trial in self.trials])
        return study

    def _frozen(self, trial: TrialRow) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        parameters = trial["parameters"]
        distributions = self.space.distributions(parameters)
        if trial["metrics"] is None:
            return create_trial(
                state=TrialState.FAIL, params=parameters, distributions=distributions
            )
        values = losses(trial, self.recipe.pareto)
        return create_trial(params=parameters, distributions=distributions, values=values)

    def _row(self, number: int, scheme: str, parameters: Parameters) -> TrialRow:
        return {
            "search": self.digest,
            "number": number,
            "scheme": scheme,
            "parameters": parameters,
            "chain": self.space.chain(parameters),
            "metrics": None,
            "run": "",
        }

    # ---- trying it on this machine

    def _try_batch(self, batch: Sequence[TrialRow]) -> None:
        """Measure schemes on this machine, on few samples and in few rounds; record the trials."""
        if not batch:
            return
        chains = {trial["scheme"]: trial["chain"] for trial in batch}
        document = written_recipe.with_schemes(self.source, chains)
        loaded, plugins = recipes.from_document(document, self.request.settings)
        few = _with_few_samples(loaded, self.samples)
        request = replace(self.request, only=list(chains), devices=[HOST], new=False, keep=None)
        resolved = resolve_recipe(request, few, plugins)
        finished = run_recipe(resolved, self.store, self.listen, self.notify)
        metrics = self._metrics(finished.run)
        for trial in batch:
            measured = metrics.get(trial["scheme"], {})
            is_complete = self.recipe.pareto.keys() <= measured.keys()
            row: TrialRow = {**trial, "run": finished.run}
            row["metrics"] = measured if is_complete else None
            self.store.record_trial(row)
            self.trials.append(row)
            self.notify(f"{trial['scheme']}: {self._describe(row)}")

    def _metrics(self, run: str) -> dict[str, dict[str, float]]:
        """Return the numbers of each scheme that are objectives."""
        metrics: dict[str, dict[str, float]] = {}
        for row in self.store.measurements(run):
            if row["metric"] in self.recipe.pareto:
                metrics.setdefault(row["scheme"], {})[row["metric"]] = row["value"]
        return metrics

    def _describe(self, trial: TrialRow) -> str:
        stages = " ".join(stage for written in trial["chain"] for stage in written)
        if trial["metrics"] is None:
            return f"{stages}: failed"
        numbers = [f"{metric} {value:.4g}" for metric, value in trial["metrics"].items()]
        return f"{stages}: {', '.join(numbers)}"

    # ---- what is best

    def best(self) -> list[TrialRow]:
        """Return the trials to measure on the device: those that the recipe's do not outdo."""
        kept = survivors(self.trials, self.recipe.pareto, len(self.trials))
        proposed = [trial for trial in kept if trial["scheme"] not in self.recipe.schemes]
        return survivors(proposed, self.recipe.pareto, MOST_SURVIVORS)

    def _write_out(self) -> None:
        """Write the recipe with the best so far."""
        chains: Mapping[str, Sequence[object]] = {
            trial["scheme"]: trial["chain"] for trial in self.best()
        }
        settings = "".join(f" --set {name}={text}" for name, text in self.request.settings.items())
        comment = (
            f"{self.request.recipe.name} with the best of {len(self._proposed())} trials of qpipe "
            f"search.\nMeasure them with: qpipe run {self.out.name}{settings}"
        )
        written_recipe.write(self.out, written_recipe.with_schemes(self.source, chains), comment)

    def _confirm(self) -> Finished:
        """Measure the best beside the recipe's schemes, on all samples and on the devices."""
        self.notify(f"the best are measured on the device: {shown(self.out)}")
        resolved = resolve_request(replace(self.request, recipe=self.out))
        return run_recipe(resolved, self.store, self.listen, self.notify)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise QpipeError(
            "optuna is not installed, which proposes what to try; run: "
            "pip install 'qpipe-edge[search]'"
        ) from None
    return optuna


def _with_few_samples(recipe: Recipe, count: int) -> Recipe:
    """Return a recipe that scores so many samples, in few rounds, without expected scores."""
    models = {}
    for name, call in recipe.models.items():
        companions = {key: _limited(companion, count) for key, companion in call.beside.items()}
        models[name] = replace(call, beside=companions)
    return replace(
        recipe,
        samples=_limited(recipe.samples, count),
        models=models,
        measure=[_limited(call, count) for call in recipe.measure],
        expect={},
    )


def _limited(call: Call, count: int) -> Call:
    """Return a call with fewer evaluation samples and rounds, where it has such options."""
    options = dict(call.options)
    for name, most in (("evaluation_count", count), ("rounds", FEW_ROUNDS)):
        if name in options:
            value = options[name]
            options[name] = most if value is None else min(most, value)
    return replace(call, options=options)
