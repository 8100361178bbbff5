"""A function in a process of its own gives its result, its messages, its errors, and a line where it crashes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest

from qpipe.engine.own_process import run_in_own_process
from qpipe.errors import RecipeError, StageError


def double(number: int, notify: Callable[[str], None]) -> tuple[int, bool]:
    notify(f"got {number}")
    return 2 * number, multiprocessing.parent_process() is None


def wrong(lines: tuple[str, ...], _: Callable[[str], None]) -> None:
    raise RecipeError(*lines)


def broken(_: int, __: Callable[[str], None]) -> None:
    raise ZeroDivisionError("a bug")


def crash(status: int, _: Callable[[str], None]) -> None:
    os.kill(os.getpid(), status)


def test_it_gives_the_result_and_passes_on_messages() -> None:
    messages: list[str] = []
    assert run_in_own_process(double, 21, messages.append, "case") == (42, False)
    assert messages == ["got 21"]


def test_errors_come_back_as_they_were_raised() -> None:
    with pytest.raises(RecipeError, match=r"^a: is wrong\nb: is wrong, too$"):
        run_in_own_process(wrong, ("a: is wrong", "b: is wrong, too"), print, "case")
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        run_in_own_process(broken, 1, print, "case")
    assert "in broken" in caught.value.__notes__[0]


def test_a_crash_is_one_line() -> None:
    with pytest.raises(
        StageError, match=r"^case: its process was ended by SIGSEGV; a library crashed"
    ):
        run_in_own_process(crash, 11, print, "case")
