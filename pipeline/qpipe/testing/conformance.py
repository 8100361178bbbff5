"""The requirements of each kind, and a plugin held to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from qpipe.errors import RecipeError, suggest
from qpipe.stages import registry
from qpipe.stages.registry import KINDS, Registry, Stage
from qpipe.testing import (
    build_checks,
    device_checks,
    import_checks,
    key_checks,
    measure_checks,
    metric_checks,
    network_checks,
    option_checks,
    postprocess_checks,
    quantizer_checks,
    sample_checks,
)
from qpipe.testing.checks import Check, Requirement, Subject
from qpipe.types import Array

OF_EVERY_KIND: tuple[Requirement, ...] = (
    option_checks.options_are_documented,
    option_checks.wrong_options_are_refused,
)
OF_STAGES: tuple[Requirement, ...] = (
    *OF_EVERY_KIND,
    key_checks.key_depends_on_options,
    key_checks.key_depends_on_code,
)
OF_NETWORKS: tuple[Requirement, ...] = (
    *OF_STAGES,
    network_checks.result_is_deterministic,
    network_checks.inputs_are_unchanged,
    network_checks.network_is_valid,
    network_checks.network_runs,
    network_checks.chains_with_others,
)
REQUIREMENTS: Mapping[str, tuple[Requirement, ...]] = MappingProxyType(
    {
        "samples": (
            *OF_STAGES,
            sample_checks.samples_can_be_stored,
            sample_checks.samples_are_deterministic,
            sample_checks.targets_are_json,
            sample_checks.decode_gives_what_the_dataset_gives,
            sample_checks.decode_runs_without_qpipe,
        ),
        "import": (
            *OF_STAGES,
            import_checks.import_is_deterministic,
            import_checks.imported_network_loads,
        ),
        "transform": OF_NETWORKS,
        "calibrate": (*OF_STAGES, import_checks.statistics_are_deterministic),
        "quantize": (
            *OF_NETWORKS,
            quantizer_checks.declared_bits_are_kept,
            quantizer_checks.error_is_bounded,
        ),
        "compile": (
            *OF_STAGES,
            build_checks.build_is_complete,
            build_checks.build_is_deterministic,
            build_checks.quantized_networks_compile,
            build_checks.runner_speaks_the_protocol,
            build_checks.a_broken_network_is_one_line,
        ),
        "deploy": (*OF_STAGES, measure_checks.builds_are_stored),
        "postprocess": (*OF_STAGES, postprocess_checks.predictions_are_deterministic),
        "metric": (
            *OF_STAGES,
            metric_checks.contributions_are_of_one_sample,
            metric_checks.value_is_a_number,
            metric_checks.order_does_not_matter,
            metric_checks.better_is_better,
            metric_checks.a_share_is_within_0_and_1,
            metric_checks.scores_have_an_interval,
        ),
        "measure": (
            *OF_STAGES,
            measure_checks.measurements_are_declared,
            measure_checks.what_is_cached_is_deterministic,
        ),
        "device": (
            *OF_EVERY_KIND,
            key_checks.key_depends_on_code,
            device_checks.device_describes_itself,
            device_checks.device_stores_files,
            device_checks.device_runs_builds,
            device_checks.device_times_rounds,
            device_checks.device_is_cleaned,
            device_checks.failures_are_one_line,
        ),
        "power": OF_EVERY_KIND,
    }
)


def checks(
    kind: str,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    examples: Sequence[tuple[Any, Any]] = (),
    outputs: Mapping[str, Array] | None = None,
    plugins: Registry | None = None,
) -> list[Check]:
    """Return the checks of an installed stage, device driver or power switch, to be called.

    `options` are those that a recipe or devices.yaml would give. A metric is tried on `examples`,
    predictions of samples with their targets, in place of usual ones; a postprocess on `outputs`,
    those of a network for one sample. Raise PluginError where there is no such stage.
    """
    loaded = plugins or registry.load()
    subject = Subject(
        _find_stage(loaded, kind, name), loaded, dict(options or {}), tuple(examples), outputs
    )
    return checks_of(subject)


def checks_of(subject: Subject) -> list[Check]:
    """Return the checks of a subject by its kind."""
    return [Check(requirement, subject) for requirement in REQUIREMENTS[subject.stage.kind]]


def _find_stage(plugins: Registry, kind: str, name: str) -> Stage:
    if kind == "device":
        return plugins.device(name)
    if kind == "power":
        return plugins.power(name)
    if kind not in KINDS:
        raise RecipeError(f"kind '{kind}' is not known; {suggest(kind, REQUIREMENTS)}")
    return plugins.stage(kind, name)
