"""The tests of `make check`: a few cases of each law, and none that takes long."""

from collections.abc import Iterable

import pytest

LONGEST_QUICK_S = 5.0


def few(cases: Iterable, *quick) -> list:
    """The cases of a parametrized test; `make check` runs the quick ones, `make test` all."""
    cases = list(cases)
    assert all(case in cases for case in quick)
    return [c if c in quick else pytest.param(c, marks=pytest.mark.long) for c in cases]


def pytest_terminal_summary(terminalreporter, config):
    """A line for every test of the quick tier that took longer than its time."""
    if "not long" not in config.option.markexpr:
        return
    reports = terminalreporter.getreports("passed")
    late = [f"{r.duration:.0f} s  {r.nodeid}" for r in reports if r.duration > LONGEST_QUICK_S]
    if late:
        terminalreporter.section("too long for make check: mark them pytest.mark.long")
        for line in sorted(late):
            terminalreporter.line(line)
