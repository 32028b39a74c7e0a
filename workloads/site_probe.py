"""The smallest workload: says where it runs and with what. `tracebed site check` runs it."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from provenance.lineage import library_versions
from workloads.fence import require_fence


def main() -> None:
    """Write down what is here."""
    found = {
        "python": f"{sys.executable} {platform.python_version()}",
        "cores": len(os.sched_getaffinity(0)),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "not set"),
        "libraries": ", ".join(f"{name} {version}" for name, version in library_versions().items()),
    }
    require_fence()
    (Path(os.environ["TRACEBED_LAUNCH"]) / "probe.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
