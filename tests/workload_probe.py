"""A workload for tests of compute: does what its parameters say."""

import os
import sys
import time

import polars as pl

from workloads.job import open_job


def main() -> None:
    with open_job() as job:
        behaviour = job.params["behaviour"]
        print("probe prints 'quotes' $HOME and ünïcode", flush=True)
        job.progress(0.5, "half way")
        frame = pl.DataFrame({"note": [job.params.get("text", "")]})
        if behaviour == "raise":
            raise ValueError("found nothing, expected something; do something")
        if behaviour == "die":
            os.kill(os.getpid(), 9)
        if behaviour == "sleep":
            time.sleep(600)
        if behaviour == "silent":
            sys.exit(0)
        job.publish(frame, {"answer": 42})
        if behaviour == "tamper":
            frame.with_columns(note=pl.lit("other")).write_parquet(job.directory / "result.parquet")
        if behaviour == "fail late":
            sys.exit(3)
        job.check("looks_right", True, {"why": "it does"})


if __name__ == "__main__":
    main()
