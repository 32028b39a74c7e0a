"""What nothing refers to is listed and removed on demand; what a kept number reaches never is."""

import os
import shutil

import dagster as dg
import polars as pl
import pytest
from small_platform import Platform, benchmark, mirror, rm_ideal, section, spot

from home import Home
from io_managers.artifacts import ArtifactStore
from io_managers.tables import TableStore
from partitions import add_section_key, pair
from provenance.garbage import LostLineage, find_garbage, remove, under_way
from provenance.lineage import Origin, record
from provenance.trace import trace
from resources.compute.job_directory import JobDirectory


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A pair and a benchmark from the first version of a; then two more versions of a, from which nothing was made."""
    folder = tmp_path_factory.mktemp("garbage")
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        for key in "ab":
            add_section_key(instance, key)
        platform = Platform(Home(folder / "home"), instance)
        for key in "ab":
            platform.run(section, key)
        platform.run_range(mirror, "a", "b")
        platform.run(rm_ideal, pair("a", "b"))
        platform.run(benchmark)
        platform.run(section, "a", config={"umi": 9.0})
        platform.run(section, "a", config={"umi": 10.0})
        yield platform


@pytest.fixture
def home(filled, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(filled.home.root, tmp_path / "home")
    return Home(tmp_path / "home")


def test_an_old_version_from_which_nothing_was_made_is_garbage_and_the_one_a_number_reaches_is_not(home):
    found = find_garbage(home, older_than_s=-1)
    assert [each.what for each in found] == ["old version of spatial/section [a]"]
    assert pl.read_parquet(found[0].path)["sum_umi"].to_list() == [9.0]
    remove(home, found)
    assert not found[0].path.exists() and find_garbage(home, older_than_s=-1) == []
    traced = trace(home, "benchmark/spatial")
    assert not traced.problems
    assert TableStore(home.tables).partition("section", ("a",)).frame()["sum_umi"].to_list() == [10.0]


def test_every_version_of_a_metric_is_kept_with_all_that_it_reaches(home):
    """The pair is computed again; the benchmark that was printed before still traces."""
    platform = Platform(home, dg.DagsterInstance.ephemeral())
    for key in "ab":
        add_section_key(platform.instance, key)
    before = TableStore(home.tables).partition("benchmark_spatial", ("all",))
    platform.run_range(mirror, "a", "b")
    platform.run(rm_ideal, pair("a", "b"))
    platform.run(benchmark)
    found = find_garbage(home, older_than_s=-1)
    remove(home, found)
    old = trace(home, "benchmark/spatial", at=before.run_id)
    assert not old.problems and old.superseded


def test_an_artifact_without_a_row_is_garbage_and_a_young_one_waits(home, tmp_path):
    source = tmp_path / "figure.png"
    source.write_bytes(b"nobody points here")
    name = ArtifactStore(home.artifacts).put(source)
    assert find_garbage(home) == []
    (found,) = [each for each in find_garbage(home, older_than_s=-1) if "artifact" in each.what]
    assert found.path.name == name and found.size_bytes == len(b"nobody points here")


def test_an_old_artifact_stays_as_long_as_a_version_that_points_to_it(home, tmp_path):
    source = tmp_path / "section.h5ad"
    source.write_bytes(b"pointed to by a version that is spared because it is young")
    name = ArtifactStore(home.artifacts).put(source)
    os.utime(ArtifactStore(home.artifacts).path(name), (0, 0))
    store = TableStore(home.tables)
    for umi, artifact in ((11.0, name), (12.0, "none")):
        rows = spot("a", umi).with_columns(section_artifact=pl.lit(artifact))
        published = store.publish("section", ("a",), rows, asset="spatial/section", partition="a", run_id=f"run-{umi}")
        record(store, published, [], Origin("7"))
    assert find_garbage(home, older_than_s=3600) == []
    removable = {each.path.name for each in find_garbage(home, older_than_s=-1)}
    assert name in removable and any(each.endswith("--run-11.0.parquet") for each in removable)


def test_nothing_is_called_garbage_while_a_record_is_lost(home):
    shutil.rmtree(home.tables / "lineage" / "spatial.rm_ideal")
    with pytest.raises(LostLineage, match=r"(?s)lineage rebuild.*spatial/rm_ideal \[a\|b\]"):
        find_garbage(home, older_than_s=-1)


def test_the_scratch_of_a_replay_is_garbage_once_nothing_in_it_has_changed_for_a_day(home):
    scratch = home.root / "scratch" / "replay-1"
    scratch.mkdir(parents=True)
    (scratch / "file").write_text("1234")
    os.utime(scratch, (0, 0))
    assert not [each for each in find_garbage(home, older_than_s=0) if "scratch" in each.what]
    os.utime(scratch / "file", (0, 0))
    os.utime(scratch, (0, 0))
    (found,) = [each for each in find_garbage(home, older_than_s=0) if "scratch" in each.what]
    assert found.size_bytes == 4
    remove(home, [found])
    assert not scratch.exists()


def test_nothing_is_removed_while_a_run_or_a_job_is_under_way(home, filled):
    assert under_way(home, filled.instance) == []
    job = JobDirectory(home.jobs / "a-job")
    job.path.mkdir(parents=True)
    job.mark_open()
    assert under_way(home, filled.instance) == ["job a-job"]
    job.mark_closed()
    run = filled.instance.create_run_for_job(dg.job(name="waits")(lambda: None))
    assert under_way(home, filled.instance) == [f"run {run.run_id} (NOT_STARTED)"]
    filled.instance.delete_run(run.run_id)
