"""Finds the MimicGen that the user has installed, says what it is, and where it is not, how to install it.

MimicGen is never imported here: its package is looked up, its version read from its text, its commit asked of git.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "mimicgen"
TASK_ZOO = "robosuite_task_zoo"
UNKNOWN = "unknown"
FAITHFUL = "faithful"
SHIM = "shim-1.5"
MODES: Mapping[str, str] = {"1.4.1": FAITHFUL, "1.5.2": SHIM}
"""What the results mean, by robosuite's version: MimicGen is written for 1.4.1; 1.5.2 has another control step."""

REMEDY = (
    "MimicGen is NVIDIA's, under a licence for non-commercial use only, so it is not part of this package; who may use "
    "it installs it: `git clone https://github.com/NVlabs/mimicgen`, then `{python} -m pip install --no-deps "
    "--editable mimicgen`. Where another Python has it (and tracebed, with --no-deps), set TRACEBED_PYTHON_MIMICGEN to "
    "that Python"
)


def package_folder(name: str = PACKAGE) -> Path | None:
    """The folder of an installed package, or of a checkout on the path; None where there is none."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def installed(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def mode() -> str:
    """`faithful` or `shim-1.5`; call it only where `unavailable` is None."""
    return MODES[version("robosuite")]


def unavailable() -> str | None:
    """Why MimicGen's tasks cannot run in this interpreter and what to do; None where they can."""
    remedy = REMEDY.format(python=sys.executable)
    versions = " or ".join(f"robosuite {number} ({name})" for number, name in MODES.items())
    if package_folder() is None:
        return f"found no package {PACKAGE!r} in this Python ({sys.executable}). {remedy}. It needs {versions} as well"
    missing = [name for name in ("robosuite", "mujoco") if installed(name) is None]
    if missing:
        return (
            f"found MimicGen, but neither it nor its tasks run without {' and '.join(missing)}, which this Python "
            f"({sys.executable}) has not; expected {versions}: install it with --no-deps beside a mujoco"
        )
    found = version("robosuite")
    if found not in MODES:
        return (
            f"found MimicGen with robosuite {found}, expected {versions}; with others nothing was verified. Install "
            f"one of them with --no-deps, or set TRACEBED_PYTHON_MIMICGEN to a Python that has it"
        )
    return None


def provenance() -> Mapping[str, str]:
    """Versions, commit, content and mode of what decides an episode; `unknown` where it cannot be told."""
    folder = package_folder()
    if folder is None:
        raise FileNotFoundError(f"found no package {PACKAGE!r}: {unavailable()}")
    zoo = package_folder(TASK_ZOO)
    return {
        "mimicgen": _version_in_text(folder),
        "mimicgen_git": git_commit(PACKAGE, folder),
        "mimicgen_files": content_hash(folder),
        "robosuite_task_zoo": "absent" if zoo is None else git_commit(TASK_ZOO, zoo),
        "mode": mode(),
        **{name: version(name) for name in ("robosuite", "mujoco", "numpy")},
    }


def _version_in_text(folder: Path) -> str:
    """`__version__` of a package that is not to be imported."""
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", (folder / "__init__.py").read_text("utf-8"), re.M)
    return found.group(1) if found else UNKNOWN


def git_commit(name: str, folder: Path) -> str:
    """The commit of a package: of its checkout (`+dirty` where the package's files differ), else as pip noted it."""
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ".")
        if commit is None or changed is None:
            return UNKNOWN
        return commit + ("+dirty" if changed else "")
    try:
        noted = distribution(name).read_text("direct_url.json")
    except PackageNotFoundError:
        return UNKNOWN
    return str(json.loads(noted or "{}").get("vcs_info", {}).get("commit_id", UNKNOWN))


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in a folder; None where there is no git, or it refuses."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return said.stdout.strip() if said.returncode == 0 else None


def content_hash(folder: Path) -> str:
    """SHA-256 (hex) of the names and bytes of a package's files: `+dirty` is many states, a commit may be unknown."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in parts):
            digest.update(f"{'/'.join(parts)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
