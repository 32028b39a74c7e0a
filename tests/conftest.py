"""Fixtures that all tests share: a home of their own, where the real sections lie, and the OpenGL that draws."""

import os
import tempfile
from pathlib import Path

import pytest

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
