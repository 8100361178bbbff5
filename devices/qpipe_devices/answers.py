"""What an agent answers, checked: others log in to a board too, so what it says is not trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NotRequired, get_type_hints

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

import qpipe.types
from qpipe.errors import DeviceError, printable
from qpipe.types import Capabilities
from qpipe_devices.agent import messages

LONGEST_TEXT = 10_000  # characters
LARGEST_INTEGER = 1 << 63  # the database has 64 bits
# what is accepted in place of the type of a field
ACCEPTED: Mapping[str, Any] = {
    # times of a runner in another language may be fractions of a nanosecond
    "values_ns": Sequence[float],
    "window_ns": Sequence[float],
    "imports": Mapping[str, Mapping[str, str]],
}
REMEDY = "check what runs there, or set it up again"


class FolderAnswer(TypedDict):
    """Where a folder of files lies on the device."""

    path: str


class TakenAnswer(TypedDict):
    """Whether a file arrived whole."""

    taken: bool


class BytesAnswer(TypedDict):
    """The bytes that were freed."""

    bytes: int


class ReleasedAnswer(TypedDict):
    """Whether there was a hold."""

    released: bool


class ClockAnswer(TypedDict):
    """The monotonic clock."""

    now_ns: int


# by verb; "greeting" is the message that no request asks for
ANSWERS: Mapping[str, type] = {
    "greeting": messages.Greeting,
    "capabilities": Capabilities,
    "missing": messages.MissingAnswer,
    "take": TakenAnswer,
    "folder": FolderAnswer,
    "round": messages.RoundAnswer,
    "placement": messages.PlacementAnswer,
    "clean": BytesAnswer,
    "hold": messages.Hold,
    "release": ReleasedAnswer,
    "clock": ClockAnswer,
}


def check_answer(
    device: str, verb: str, fields: dict[str, Any], answers: Mapping[str, type] = ANSWERS
) -> dict[str, Any]:
    """Return the fields of an answer; raise DeviceError where they are not those of `answers`.

    Text is without control characters and not longer than LONGEST_TEXT, numbers are finite.
    """
    try:
        clean = {str(name): _checked_value(value) for name, value in fields.items()}
    except ValueError as error:
        raise wrong_answer(device, f"a number of {verb} is {error}") from None
    if verb not in answers:
        return clean
    try:
        answer = _adapter(answers[verb]).validate_python(clean)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise wrong_answer(device, f"{place} of {verb}: {first['msg'].lower()}") from None
    return answer if isinstance(answer, dict) else dict(vars(answer))


def wrong_answer(device: str, reason: str) -> DeviceError:
    """Return the error for an answer that is none of the protocol."""
    return DeviceError(f"{device}: a wrong answer: {reason}; {REMEDY}", failure="wrong answer")


def _checked_value(value: Any) -> Any:
    """Return a value of JSON with every text in it short, and without control characters.

    Raise ValueError for a number that is not finite, or has more than 64 bits.
    """
    if isinstance(value, str):
        return printable(value[:LONGEST_TEXT])
    if isinstance(value, list):
        return [_checked_value(entry) for entry in value]
    if isinstance(value, dict):
        return {_checked_value(name): _checked_value(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(value)
    if isinstance(value, int) and not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
        raise ValueError("too large")
    return value


@cache
def _adapter(answer: type) -> TypeAdapter[Any]:
    if not hasattr(answer, "__required_keys__"):
        return TypeAdapter(answer)
    # the messages of the agent name types that are not on a board, so they are looked up here
    names = vars(qpipe.types)
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(answer, localns=names).items():
        accepted = ACCEPTED.get(name, hint)
        fields[name] = accepted if name in answer.__required_keys__ else NotRequired[accepted]
    return TypeAdapter(TypedDict(answer.__name__, fields))  # type: ignore[operator]
