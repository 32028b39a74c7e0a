"""The table of `docs/reliability.md`, from the reports of one test session."""

from collections import defaultdict
from pathlib import Path

BEGIN, END = "<!-- table: make reliability -->", "<!-- end of table -->"


def write_fault_table(path: Path, stats: dict) -> None:
    """Put one row a fault between the two marks of the file: what was done, what held, what was measured."""
    rows: dict[str, list] = defaultdict(list)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", []))
            if "fault" in properties and (report.when == "call" or outcome != "passed"):
                rows[report.nodeid].append((outcome, properties, report))
    lines = ["| fault | what must hold | result | measured |", "|---|---|---|---|"]
    for _, entries in sorted(rows.items()):
        outcome, properties, report = entries[-1]
        done, holds = properties["fault"]
        why = f": {report.longrepr[2].removeprefix('Skipped: ')}" if outcome == "skipped" else ""
        lines.append(f"| {done} | {holds} | {outcome}{why} | {properties.get('measured', '')} |")
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text("\n".join([before + BEGIN, "", *lines, "", END + after.rstrip(), ""]))
