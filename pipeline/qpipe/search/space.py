"""What a search varies: chains of the stages of a recipe, and the options of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from qpipe.digests import digest_json
from qpipe.recipe.recipe import CHAIN_KINDS, Recipe
from qpipe.recipe.stage_call import Call
from qpipe.stages.options import Option, options
from qpipe.stages.registry import Registry, Stage

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

CHAIN = "chain"  # the parameter that chooses among the chains
LAYERWISE = "mixed"  # chooses bits layer by layer: tried wherever it is installed
MOST_CHOICES = 16  # of a whole number: more of them is an amount, not a choice
LARGEST_SHARE = 4  # the bound of a number that is a part of something: of 8 bits, 32 are 4 times

Parameters = dict[str, Any]  # by name: the chain, then STAGE.OPTION
WrittenStage = dict[str, dict[str, Any]]  # as a recipe has it: {name: {option: value}}


@dataclass(frozen=True)
class Domain:
    """The values that an option may take: some, or all numbers between two."""

    choices: Sequence[Any] = ()
    low: float = 0.0
    high: float = 0.0

    def distribution(self) -> BaseDistribution:
        """Return it as the optimizer takes it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.choices:
            return CategoricalDistribution(list(self.choices))
        return FloatDistribution(self.low, self.high)

    def suggest(self, trial: Trial, name: str) -> None:
        """Let the optimizer choose a value."""
        if self.choices:
            trial.suggest_categorical(name, list(self.choices))
        else:
            trial.suggest_float(name, self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Return whether an option may have a value."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Space:
    """The chains to choose from by name, each of stages whose options are varied."""

    chains: Mapping[str, Sequence[Stage]]
    fixed: Mapping[str, Mapping[str, Any]]  # stage -> options that keep what the recipe says

    @property
    def digest(self) -> str:
        """Digest of what may be chosen."""
        domains = {
            stage.name: {name: repr(domain) for name, domain in domains_of(stage).items()}
            for stages in self.chains.values()
            for stage in stages
        }
        return digest_json([list(self.chains), domains, self.fixed], default=str)

    def suggest(self, trial: Trial) -> Parameters:
        """Let the optimizer choose a chain and the options of its stages."""
        chain = trial.suggest_categorical(CHAIN, list(self.chains))
        for stage in self.chains[chain]:
            for option, domain in domains_of(stage).items():
                domain.suggest(trial, f"{stage.name}.{option}")
        return dict(trial.params)

    def distributions(self, parameters: Parameters) -> dict[str, BaseDistribution]:
        """Return where each parameter of a chain is drawn from; only the chain's without one."""
        from optuna.distributions import CategoricalDistribution

        drawn: dict[str, BaseDistribution] = {CHAIN: CategoricalDistribution(list(self.chains))}
        for stage in self.chains.get(parameters.get(CHAIN, ""), ()):
            for option, domain in domains_of(stage).items():
                drawn[f"{stage.name}.{option}"] = domain.distribution()
        return drawn

    def chain(self, parameters: Parameters) -> list[WrittenStage]:
        """Return the chain of these parameters as a recipe has it."""
        written: list[WrittenStage] = []
        for stage in self.chains[parameters[CHAIN]]:
            values = dict(self.fixed.get(stage.name, {}))
            for option in domains_of(stage):
                values[option] = parameters[f"{stage.name}.{option}"]
            written.append({stage.name: values})
        return written

    def parameters(self, chain: Sequence[Call]) -> Parameters | None:
        """Return the parameters of a chain of the recipe; None where the space has no such one."""
        name = _name([call.stage for call in chain])
        if name not in self.chains:
            return None
        parameters: Parameters = {CHAIN: name}
        for call in chain:
            for option, domain in domains_of(call.stage).items():
                value = call.options[option]
                if not domain.contains(value):
                    return None
                parameters[f"{call.name}.{option}"] = value
        return parameters


def space_of(recipe: Recipe, plugins: Registry) -> Space:
    """Return the space of a recipe.

    Its stages are put together anew: transforms, a first quantizer, and what stands behind it, each
    as some chain of the recipe has it.
    """
    beginnings: dict[str, Sequence[Stage]] = {"": ()}
    quantizers: dict[str, Stage] = {}
    ends: dict[str, Sequence[Stage]] = {"": ()}
    fixed: dict[str, dict[str, Any]] = {}
    for chain in recipe.schemes.values():
        transforms = [call.stage for call in chain if call.kind == CHAIN_KINDS[0]]
        quantize = [call.stage for call in chain if call.kind == CHAIN_KINDS[1]]
        if not quantize:
            continue
        beginnings[_name(transforms)] = transforms
        quantizers[quantize[0].name] = quantize[0]
        ends[_name(quantize[1:])] = quantize[1:]
        for call in chain:
            fixed.setdefault(call.name, _fixed_options(call))
    layerwise = plugins.stages.get((CHAIN_KINDS[1], LAYERWISE))
    if layerwise is not None:
        quantizers[LAYERWISE] = layerwise
    chains: dict[str, Sequence[Stage]] = {}
    parts = product(beginnings.values(), quantizers.values(), ends.values())
    for beginning, quantizer, end in parts:
        stages = [*beginning, quantizer, *end]
        if all(stage.name != quantizer.name for stage in end):
            chains[_name(stages)] = stages
    return Space(chains, fixed)


def domains_of(stage: Stage) -> dict[str, Domain]:
    """Return the values of each option of a stage that is varied.

    These are choices, flags and numbers between narrow bounds; amounts such as samples are not.
    """
    domains: dict[str, Domain] = {}
    for name, option in options(stage.function).items():
        domain = None if option.stage_kind else _domain(option)
        if domain is not None:
            domains[name] = domain
    return domains


def _domain(option: Option) -> Domain | None:
    schema = option.schema()
    choices: list[Any] = []
    for alternative in schema.get("anyOf", [schema]):
        if alternative.get("type") == "number" and _is_share(alternative):
            return Domain(low=0.05, high=1.0)
        values = _choices(alternative)
        if values is None:
            return None
        choices += values
    return Domain(choices) if len(choices) > 1 else None


def _choices(schema: Mapping[str, Any]) -> list[Any] | None:
    """Return the values that a schema allows; None where these are not few."""
    if "enum" in schema:
        return list(schema["enum"])
    if schema.get("type") == "boolean":
        return [False, True]
    if schema.get("type") == "null":
        return [None]
    if schema.get("type") != "integer" or not {"minimum", "maximum"} <= schema.keys():
        return None
    values = list(range(schema["minimum"], schema["maximum"] + 1))
    return values if len(values) <= MOST_CHOICES else None


def _is_share(schema: Mapping[str, Any]) -> bool:
    """Return whether a number is a part of something, or a few times as much."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    return bool(low == 0 and 1 <= schema.get("maximum", 0) <= LARGEST_SHARE)


def _fixed_options(call: Call) -> dict[str, Any]:
    """Return the options that a recipe sets and a search does not vary."""
    varied = domains_of(call.stage)
    fixed = {}
    for name, option in options(call.stage.function).items():
        value = call.options[name]
        if name not in varied and name not in call.secret and value != option.default:
            fixed[name] = value
    return fixed


def _name(stages: Sequence[Stage]) -> str:
    return " ".join(stage.name for stage in stages)
