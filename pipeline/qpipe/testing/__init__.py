"""The conformance kit: what a plugin has to do, by its kind, as checks to call.

For the tests of a plugin that is installed:

    import pytest
    from qpipe import testing

    @pytest.mark.parametrize("check", testing.checks("quantize", "mine"), ids=str)
    def test_it_conforms(check):
        check()

`qpipe plugins check` runs the same checks. A check raises NonconformityError, an AssertionError,
where the plugin does something else, and NotApplicableError, by which pytest skips a test, where it
says nothing about the plugin. For other packages: what this one exports, and `plugin_choice`, the
stages that a name stands for.
"""

from __future__ import annotations

from qpipe.testing.checks import (
    Check,
    CheckResult,
    NonconformityError,
    NotApplicableError,
    Subject,
)
from qpipe.testing.conformance import checks, checks_of

__all__ = [
    "Check",
    "CheckResult",
    "NonconformityError",
    "NotApplicableError",
    "Subject",
    "checks",
    "checks_of",
]
