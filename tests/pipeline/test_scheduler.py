"""The order of steps: when a step is looked at, and which one of a place comes next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from qpipe.engine.lane import Lane
from qpipe.engine.plan import Plan, Step
from qpipe.engine.unmet_needs import UnmetNeeds
from qpipe.storage.rows import StepState


def step(
    name: str,
    *needs: str,
    fan_in: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    device: str | None = None,
) -> Step:
    return Step(
        name, "quantize", None, {need: need for need in needs}, {}, name, {}, fan_in=fan_in, after=after, device=device
    )  # fmt: skip


def unmet(*steps: Step) -> UnmetNeeds:
    recipe: Any = SimpleNamespace()
    plan = Plan(recipe, {each.id: each for each in steps})
    states: dict[str, StepState] = dict.fromkeys(plan.steps, "pending")
    return UnmetNeeds(plan, states)


def changed(needs: UnmetNeeds) -> list[str]:
    names = []
    while name := needs.take_changed():
        names.append(name)
    return names


def test_a_step_is_looked_at_once_at_first_and_then_when_its_last_need_ends() -> None:
    needs = unmet(step("a"), step("b"), step("c", "a", "b"))
    assert changed(needs) == ["a", "b", "c"]
    needs.note_end("a", is_lost=False)
    assert changed(needs) == []
    assert not needs.are_met("c")
    needs.note_end("b", is_lost=False)
    assert changed(needs) == ["c"]
    assert needs.are_met("c")


def test_a_fan_in_of_a_thousand_builds_is_looked_at_twice() -> None:
    builds = [step(f"b{number}") for number in range(1000)]
    needs = unmet(*builds, step("all", fan_in=tuple(build.id for build in builds)))
    assert changed(needs).count("all") == 1
    for build in builds:
        needs.note_end(build.id, is_lost=False)
    assert changed(needs) == ["all"]


def test_a_step_is_looked_at_as_soon_as_a_need_is_lost_or_a_gate_ends() -> None:
    needs = unmet(
        step("a"),
        step("gate"),
        step("slow"),
        step("c", "a", "slow"),
        step("d", "slow", after=("gate",)),
    )
    changed(needs)
    needs.note_end("a", is_lost=True)
    assert changed(needs) == ["c"]
    assert not needs.are_met("c")
    needs.note_end("gate", is_lost=False)
    assert changed(needs) == ["d"]
    assert not needs.are_met("d")


def test_a_lane_goes_by_the_plan_and_stays_with_the_device_that_has_the_board() -> None:
    lane = Lane()
    for position, (name, device) in enumerate(
        [("a", "pi"), ("b", "kitchen"), ("c", "pi"), ("d", "kitchen")]
    ):
        lane.add(step(name, device=device), position)
    is_kitchen = lambda device: device == "kitchen"  # noqa: E731
    assert [lane.take(is_kitchen) for _ in range(3)] == ["b", "d", "a"]
    assert lane.has_ready("pi")
    assert not lane.has_ready("kitchen")
    lane.drop("pi")
    assert lane.take(is_kitchen) is None
