"""Fixtures that all tests share: a home of their own, where the real sections lie, the OpenGL that draws, a real Slurm
and sshd, and the table of fault tests that `make reliability` writes."""

import os
import tempfile
from pathlib import Path

import pytest
from cluster.conftest_fixtures import cluster, slurm, slurm_without_accounting, sshd  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[1]

# Loading the definitions creates a home: never the developer's own.
os.environ["TRACEBED_HOME"] = tempfile.mkdtemp(prefix="tracebed-tests-")
os.environ.pop("DAGSTER_HOME", None)


@pytest.fixture(scope="session")
def dlpfc() -> Path:
    """Folder of real DLPFC sections (h5ad and low-resolution images)."""
    folder = Path(os.environ.get("TRACEBED_TEST_DATA", ROOT.parent / "shared" / "data")) / "dlpfc"
    if not folder.is_dir():
        pytest.skip(f"real sections are not at {folder}; set TRACEBED_TEST_DATA to the folder that holds dlpfc/")
    return folder


@pytest.fixture(scope="session")
def gl():
    """The OpenGL that draws here: EGL, or OSMesa; without either, tests that draw are skipped by name."""
    return _gl("egl,osmesa")


@pytest.fixture(scope="session")
def egl_and_osmesa():
    """Both draw; where one of them is not installed, tests that hold them against each other are skipped by name."""
    return [_gl(backend) for backend in ("egl", "osmesa")]


def _gl(wanted: str):
    from science.robots.rendering import RenderingError, choose_gl

    try:
        return choose_gl(wanted)
    except RenderingError as error:
        pytest.skip(str(error))


def pytest_addoption(parser):
    parser.addoption("--fault-table", help="write the results of tests marked `fault` to this file, as Markdown")


def pytest_runtest_makereport(item, call):
    """Hand what a fault test is about over to the process that writes the table."""
    if call.when == "setup" and (mark := item.get_closest_marker("fault")):
        item.user_properties.append(("fault", list(mark.args)))


MOST_FAULTS_SKIPPED = 6
"""In CI, where Slurm and sshd are installed: what needs cgroups (pam_slurm_adopt, a kill for memory) may be missing."""


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    skipped = [each for each in reporter.stats.get("skipped", []) if "fault" in dict(each.user_properties)]
    if len(skipped) > MOST_FAULTS_SKIPPED:
        reporter.write_line(
            f"{len(skipped)} fault tests were skipped, expected at most {MOST_FAULTS_SKIPPED}", red=True
        )
        session.exitstatus = exitstatus or 1


def pytest_terminal_summary(terminalreporter, config):
    if path := config.getoption("--fault-table"):
        from fault_table import write_fault_table

        write_fault_table(Path(path), terminalreporter.stats)
