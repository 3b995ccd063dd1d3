"""Names the tests that `make check` runs although they take long, so that they get their mark."""

LONGEST_QUICK_S = 5.0


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
