"""A table of MimicGen's tasks after the tests: which run in this interpreter, and why the others do not."""

from science.robots.tasks.mimicgen_install import provenance, unavailable

RESULTS: dict[str, str] = {}


def pytest_terminal_summary(terminalreporter):
    if unavailable() is None:
        found = provenance()
        terminalreporter.section("MimicGen")
        for name, value in found.items():
            terminalreporter.write_line(f"{name:<20} {value}")
    for name, result in RESULTS.items():
        terminalreporter.write_line(f"{name:<24} {result}")
