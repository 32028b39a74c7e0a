"""Tables of the operations: jobs, and incidents of nodes."""

from __future__ import annotations

from io_managers.columns import TableSchema, flag, integer, number, optional_time, text, time

OPERATIONS_TABLES = (
    TableSchema(
        "jobs",
        "one submission of one job",
        (
            text("key", "the job"),
            integer("submission", "1 for the first; a job that is tried again gets the next"),
            text("asset", "asset that it computes"),
            text("partition", "its partition; empty for none"),
            text("module", "workload that it runs"),
            text("site", "site of sites.toml"),
            text("node", "where it ran; null while that is not known", nullable=True),
            text("reference", "the scheduler's job id, or the process", nullable=True),
            text(
                "ending", "how it ended (SUCCEEDED, USER_ERROR, NODE_FAIL, ...); null while it is open", nullable=True
            ),
            text("detail", "why, in words", nullable=True),
            text("retried", "why it was submitted again; null where it was not", nullable=True),
            text("asked_by_run", "Dagster run that asked for it first"),
            integer("gpus", "whole GPUs that were asked for"),
            integer("cpus", "threads that were asked for"),
            number("memory_gb", "memory that was asked for", "GB"),
            time("submitted_at", "when it was asked for, on the platform's clock"),
            optional_time("started_at", "when it began on the node, on the node's clock"),
            optional_time("ended_at", "when its end was seen, on the platform's clock"),
            number("elapsed_s", "time on the node, by the scheduler's account", "s", nullable=True),
            number("cpu_s", "CPU time used, by the scheduler's account", "s", nullable=True),
            number("max_rss_gb", "largest resident memory of a task, by the scheduler's account", "GB", nullable=True),
        ),
        identity=("key", "submission"),
    ),
    TableSchema(
        "incident",
        "one job step that was on a node around its failure",
        (
            text("site", "site of sites.toml"),
            text("node", "the node that failed"),
            text("job", "the scheduler's job id"),
            text("step", "step of that job; empty for the job itself"),
            text("job_name", "name of the job"),
            text("user", "whose it was"),
            flag("ours", "whether the platform had submitted it"),
            text("state", "how it ended, in the scheduler's word"),
            optional_time("started_at", "when the step began"),
            optional_time("ended_at", "when the step ended; of a step that died with the node, the declaration"),
            text("verdict", "RUNNING_AT_FAILURE, UNCERTAIN, EXONERATED or BEGAN_AFTER"),
            number("margin_s", "from the end of the step to the earliest moment of the failure", "s", nullable=True),
            integer("gpus", "GPUs allocated"),
            integer("cpus", "CPUs allocated", nullable=True),
            number("memory_gb", "memory allocated", "GB", nullable=True),
            time("window_start", "the earliest moment of the failure"),
            time("window_end", "when the scheduler declared the node down"),
        ),
        identity=("site", "node", "job", "step"),
    ),
    TableSchema(
        "audit",
        "one finding of an audit",
        (
            text("kind", "what it is: changed artifact, edited table, record without event, older input, ..."),
            text("asset", "asset that it concerns; empty where none is known"),
            text("partition", "its partition; empty for none"),
            text("file", "file or database that was looked at; empty where it is no file"),
            text("found", "what was found"),
            text("expected", "what was expected"),
            text("to_do", "what to do"),
        ),
        identity=("kind", "asset", "partition", "file"),
    ),
)
