"""A small real home for audits: artifacts, a source file, ranges, a cohort, pairs, and a merged table, by real runs."""

import atexit
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dagster as dg
import polars as pl

from assets.earlier import earlier_rows, with_earlier
from home import Home
from io_managers.artifacts import ArtifactStore
from io_managers.catalog import ensure_catalog
from io_managers.content import file_hash
from io_managers.schemas import table
from io_managers.table_io_manager import SKIP_MISSING, Rows, TableIOManager, materialised
from io_managers.tables import TablePartition, TableStore
from partitions import PAIRS, SECTIONS, TARGET_SECTIONS, TASKS, add_section_key, pair
from provenance.lineage import FILE, Input

TASK = "open.Lift"
SECTION = dg.AssetKey(["spatial", "section"])
MIRROR = dg.AssetKey(["spatial", "section_as_target"])
ENCODER = dg.AssetKey(["spatial", "encoder", "pca"])
EMBEDDING = dg.AssetKey(["spatial", "embedding", "pca"])
RM_IDEAL = dg.AssetKey(["spatial", "rm_ideal"])
BENCHMARK = dg.AssetKey(["benchmark", "spatial"])
CHECKPOINT = dg.AssetKey(["policy", "checkpoint", "bc_rnn"])
ROLLOUTS = dg.AssetKey(["policy", "rollouts", "bc_rnn"])


def rows_of(name, *rows):
    """A frame of a table, with a plain value in every column that is not given."""
    plain = {pl.String: "x", pl.Int64: 1, pl.Float64: 0.5, pl.Boolean: True}
    schema = {column.name: column.dtype for column in table(name).columns}
    defaults = {
        column.name: None if column.nullable else plain.get(type(column.dtype), []) for column in table(name).columns
    }
    defaults |= {name: "2026-01-01T00:00:00Z" for name, dtype in schema.items() if isinstance(dtype, pl.Datetime)}
    made = [{**defaults, **row} for row in rows]
    casts = [pl.col(n).str.to_datetime(time_unit="us", time_zone="UTC") for n, t in schema.items() if t == pl.Datetime]
    texts = {name: pl.String() if dtype == pl.Datetime else dtype for name, dtype in schema.items()}
    return pl.DataFrame(made, schema=texts).with_columns(casts)


class SectionConfig(dg.Config):
    umi: float = 1.0
    source: str = ""


@dg.asset(key=SECTION, partitions_def=SECTIONS, io_manager_key="tables", code_version="7")
def section(context: dg.AssetExecutionContext, config: SectionConfig, tables: dg.ResourceParam[TableIOManager]):
    key = context.partition_key
    counts = Path(tables.home) / "downloads" / f"{key}-{config.umi}.counts"
    counts.parent.mkdir(exist_ok=True)
    counts.write_bytes(f"counts of {key} at {config.umi}\n".encode() * 50)
    row = {"section": key, "barcode": "b", "sum_umi": config.umi, "section_artifact": tables.artifacts.take(counts)}
    source = Path(config.source or Path(tables.home) / "sources" / f"{key}.h5ad")
    read = [Input(FILE, str(source), file_hash(source), None, str(source))]
    return materialised(Rows(rows_of("section", row), files=read))


@dg.asset(
    key=MIRROR,
    partitions_def=TARGET_SECTIONS,
    io_manager_key="tables",
    ins={"section": dg.AssetIn(SECTION, partition_mapping=dg.IdentityPartitionMapping())},
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
    code_version="1",
)
def mirror(context, tables: dg.ResourceParam[TableIOManager], section: dict[str, TablePartition]):
    yield from tables.publish_each(context, {key: (Rows(each.frame()), each) for key, each in section.items()})


@dg.asset(
    key=ENCODER,
    io_manager_key="tables",
    code_version="1",
    ins={"cohort": dg.AssetIn(SECTION, partition_mapping=dg.SpecificPartitionsPartitionMapping(["a", "c"]))},
)
def encoder(tables: dg.ResourceParam[TableIOManager], cohort: dict[str, TablePartition]):
    return materialised(Rows(rows_of("encoder", {"method": "pca", "cohort": sorted(cohort)})))


@dg.asset(
    key=EMBEDDING,
    partitions_def=SECTIONS,
    io_manager_key="tables",
    code_version="1",
    ins={"section": dg.AssetIn(SECTION), "encoder": dg.AssetIn(ENCODER)},
)
def embedding(section: TablePartition, encoder: TablePartition):
    row = {"method": "pca", "section": section.partition, "barcode": "b", "z": [1.0, 2.0]}
    return materialised(Rows(rows_of("embedding", row)))


@dg.asset(
    key=RM_IDEAL,
    partitions_def=PAIRS,
    io_manager_key="tables",
    code_version="1",
    ins={"section": dg.AssetIn(SECTION), "section_as_target": dg.AssetIn(MIRROR)},
)
def rm_ideal(section: TablePartition, section_as_target: TablePartition):
    row = {"source": section.partition, "target": section_as_target.partition, "barcode": "b", "side": "source"}
    return materialised(Rows(rows_of("rm_ideal", row)))


@dg.asset(
    key=BENCHMARK,
    io_manager_key="tables",
    code_version="1",
    ins={"pairs": dg.AssetIn(RM_IDEAL, metadata=SKIP_MISSING)},
)
def benchmark(pairs):
    return materialised(Rows(rows_of("benchmark_spatial", {"method": ",".join(sorted(pairs))})))


class CheckpointConfig(dg.Config):
    attempt: str = "first"


@dg.asset(key=CHECKPOINT, partitions_def=TASKS, io_manager_key="tables", code_version="1")
def checkpoint(context: dg.AssetExecutionContext, config: CheckpointConfig, tables: dg.ResourceParam[TableIOManager]):
    row = {"suite": "open", "task": "Lift", "policy": "bc_rnn", "checkpoint_hash": config.attempt, "chosen": True}
    new = Rows(rows_of("checkpoint", {**row, "attempt": config.attempt}))
    earlier = earlier_rows(context, tables)
    return materialised(with_earlier(new, earlier, "checkpoint", ["checkpoint_hash", "attempt"], chosen=False))


@dg.asset(
    key=ROLLOUTS,
    partitions_def=TASKS,
    io_manager_key="tables",
    code_version="1",
    ins={"checkpoint": dg.AssetIn(CHECKPOINT)},
)
def rollouts(checkpoint: TablePartition):
    chosen = checkpoint.frame().filter("chosen")["checkpoint_hash"][0]
    row = {"suite": "open", "task": "Lift", "policy": "bc_rnn", "checkpoint_hash": chosen}
    return materialised(Rows(rows_of("rollouts", row)))


ASSETS = [section, mirror, encoder, embedding, rm_ideal, benchmark, checkpoint, rollouts]


@dataclass(frozen=True)
class Lab:
    """A home with its Dagster instance, in which assets are really run."""

    home: Home
    instance: dg.DagsterInstance

    @property
    def store(self) -> TableStore:
        return TableStore(self.home.tables)

    @property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(self.home.artifacts)

    def run(self, asset, partition=None, config=None, raise_on_error=True, **tags):
        name = "__".join(asset.path)
        return dg.materialize(
            ASSETS,
            selection=[asset],
            partition_key=partition,
            instance=self.instance,
            resources={"tables": TableIOManager(home=str(self.home.root))},
            tags=tags or None,
            run_config={
                "ops": {name: {"config": config}} if config else {},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            raise_on_error=raise_on_error,
        )

    def run_range(self, asset, first, last):
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return self.run(asset, **tags)

    def fill(self):
        """Every asset once; a source file for each section."""
        for key in "abc":
            add_section_key(self.instance, key)
            source = self.home.root / "sources" / f"{key}.h5ad"
            source.parent.mkdir(exist_ok=True)
            source.write_text(f"the file of section {key}")
            self.run(SECTION, key)
        self.instance.add_dynamic_partitions(TASKS.name, [TASK])
        self.run_range(MIRROR, "a", "c")
        self.run(ENCODER)
        self.run(EMBEDDING, "a")
        self.run(RM_IDEAL, pair("a", "b"))
        self.run(RM_IDEAL, pair("b", "c"))
        self.run(BENCHMARK)
        self.run(CHECKPOINT, TASK)
        self.run(ROLLOUTS, TASK)

    def partition(self, name, *key) -> TablePartition:
        return self.store.partition(name, key)

    def record_path(self, asset, partition) -> Path:
        """The file of the newest record of a partition."""
        folder = self.home.tables / "lineage" / asset.replace("/", ".") / (partition.replace("|", "--") or "all")
        return max(folder.glob("*/*/data.parquet"), key=lambda path: path.stat().st_mtime_ns)


def lab_in(root: Path) -> Lab:
    """A new home under ``root``."""
    home = Home(root)
    ensure_catalog(home)
    return Lab(home, dg.DagsterInstance.from_config(str(home.dagster)))


def copy_of(lab: Lab, root: Path) -> Lab:
    """The same home elsewhere, hard links kept; source files stay where they are."""
    subprocess.run(["cp", "-a", lab.home.root, root], check=True)
    shutil.rmtree(root / "audit", ignore_errors=True)
    return Lab(Home(root), dg.DagsterInstance.from_config(str(root / "dagster")))


def flip_a_byte(path: Path) -> None:
    """Change one byte in place."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, change) -> None:
    """Replace a Parquet file's rows by ``change(rows)``, and keep the platform's metadata."""
    metadata = {name: text for name, text in pl.read_parquet_metadata(path).items() if name.startswith("tracebed.")}
    frame = change(pl.read_parquet(path, hive_partitioning=False))
    draft = path.with_name(f".edited-{os.getpid()}")
    frame.write_parquet(draft, metadata=metadata)
    draft.replace(path)


@cache
def filled() -> Lab:
    """A home in which everything was run once; it is built once a process, and only ever copied."""
    folder = Path(tempfile.mkdtemp(prefix="tracebed-audited-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lab = lab_in(folder / "home")
    lab.fill()
    return lab


@contextmanager
def copied(root: Path):
    """A filled home of one's own."""
    lab = copy_of(filled(), root)
    with lab.instance:
        yield lab


def named(report) -> set[tuple[str, str]]:
    """Kind and subject of every finding."""
    return {(str(each.kind), each.subject) for each in report.findings}
