"""The words of a line of ssh_config, the patterns among them, and the tokens within them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from paramiko.ssh_exception import ConfigParseError

SPACES = " \t"
QUOTES = "\"'"
TOKEN = re.compile("%(.?)")
VARIABLE = re.compile(r"\$\{(\w+)\}")


def split_words(text: str) -> list[str]:
    """Return the words of a line by OpenSSH's rules, up to a word that begins with `#`.

    Quotes enclose words; a backslash precedes a quote, a backslash or, outside of quotes, a space.
    Raise ConfigParseError where a quote is not closed.
    """
    words = []
    rest = text.lstrip(SPACES)
    while rest and not rest.startswith("#"):
        word, rest = _take_word(rest)
        words.append(word)
        rest = rest.lstrip(SPACES)
    return words


def _take_word(text: str) -> tuple[str, str]:
    """Return the first word of a text, and what follows."""
    word = ""
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        if _is_escape(text[position : position + 2], quote):
            position += 1
            word += text[position]
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character
        elif character in SPACES:
            break
        elif character in QUOTES:
            quote = character
        else:
            word += character
        position += 1
    if quote:
        raise ConfigParseError(f"a quote is not closed in '{text}'")
    return word, text[position:]


def _is_escape(pair: str, quote: str) -> bool:
    escaped = QUOTES + "\\" if quote else QUOTES + "\\ "
    return len(pair) == 2 and pair[0] == "\\" and pair[1] in escaped


def matches(patterns: Iterable[str], text: str) -> bool:
    """Return whether a text matches one of the patterns, and none of those after a `!`."""
    is_match = False
    for pattern in patterns:
        if not _matches_pattern(pattern.removeprefix("!"), text):
            continue
        if pattern.startswith("!"):
            return False
        is_match = True
    return is_match


def _matches_pattern(pattern: str, text: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.DOTALL) is not None


def expand_tokens(text: str, tokens: Mapping[str, str]) -> str:
    """Replace %h and the like; raise ConfigParseError for a token that is not there."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name == "%":
            return "%"
        if name not in tokens:
            known = ", ".join(f"%{token}" for token in sorted(tokens))
            raise ConfigParseError(f"ssh_config: there is no %{name} in '{text}'; there is {known}")
        return tokens[name]

    return TOKEN.sub(value_of, text)


def expand_variables(text: str) -> str:
    """Replace ${NAME} by the environment; raise ConfigParseError where it is not set."""

    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise ConfigParseError(f"ssh_config: ${{{match[1]}}} of '{text}' is not set; set it")
        return value

    return VARIABLE.sub(value_of, text)
