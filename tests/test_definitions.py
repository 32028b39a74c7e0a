"""The definitions as a whole: described, versioned, checked, light to load; and the files that describe the project."""

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from defs import build_defs
from home import Home

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "jax", "scanpy", "squidpy", "mujoco", "robosuite", "anndata", "numba", "sklearn", "matplotlib")


@pytest.fixture(scope="module")
def definitions(tmp_path_factory) -> dg.Definitions:
    return build_defs(home=Home(tmp_path_factory.mktemp("home")))


def test_every_asset_has_group_kinds_description_code_version_and_checks(definitions):
    graph = definitions.resolve_asset_graph()
    checked = {key.asset_key for key in graph.asset_check_keys}
    lacking = {}
    for key in graph.executable_asset_keys:
        node = graph.get(key)
        has = {
            "group": node.group_name not in (None, "default"),
            "kinds": bool(node.kinds),
            "description": bool(node.description) and len(node.description) > 40,
            "code_version": bool(node.code_version),
            "checks": key in checked,
            "no owner": not node.owners,
        }
        if missing := [name for name, there in has.items() if not there]:
            lacking[key.to_user_string()] = missing
    assert not lacking


def test_a_variant_is_five_assets_and_a_new_section_is_no_parent_of_its_encoder(definitions):
    graph = definitions.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.executable_asset_keys}
    for name in ("encoder", "embedding", "embedding_as_target", "niche_query", "niche_figure"):
        assert f"spatial/{name}/pca_smooth" in keys
    encoder = graph.get(dg.AssetKey(["spatial", "encoder", "pca_smooth"]))
    mapping = encoder.partition_mappings[dg.AssetKey(["spatial", "section"])]
    assert mapping == dg.SpecificPartitionsPartitionMapping(["151673", "151676"])


def test_loading_the_definitions_imports_nothing_heavy():
    code = f"import defs, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []


def test_science_knows_neither_dagster_nor_duckdb_nor_tables():
    banned = re.compile(r"^\s*(?:import|from) (dagster|duckdb|polars|io_managers|assets|resources|workloads)\b", re.M)
    offenders = {str(path): banned.findall(path.read_text()) for path in (ROOT / "science").rglob("*.py")}
    assert not {path: names for path, names in offenders.items() if names}


def test_nothing_imports_assets_but_what_assembles_them():
    importing = re.compile(r"^\s*(?:import|from) assets\b", re.M)
    allowed = {"defs.py", "study.py", "task_study.py"}
    files = [
        *ROOT.glob("*.py"),
        *(
            p
            for f in ("io_managers", "provenance", "replay", "resources", "workloads", "science")
            for p in (ROOT / f).rglob("*.py")
        ),
    ]
    assert {path.name for path in files if importing.search(path.read_text())} <= allowed


def test_dg_accepts_the_project(tmp_path):
    checked = subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", "defs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**Home(tmp_path).ensure().environment(), "DG_CLI_CONFIG": str(tmp_path / "dg.toml")},
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_agents_md_is_short_and_lists_exactly_the_targets_of_the_makefile():
    text = (ROOT / "AGENTS.md").read_text()
    assert len(text.split()) <= 400
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    assert set(re.findall(r"`make ([a-z-]+)[` ]", text)) == set(phony)
    assert "AGENTS.md" in (ROOT / "CLAUDE.md").read_text()


def test_every_pinned_dependency_of_the_project_is_in_the_constraints():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    pins = re.findall(r"^([^#=\s]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert {_normal(name) for name in wanted} <= {_normal(name) for name in pins}


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
