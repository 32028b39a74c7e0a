"""The code location of the audit: the check `audited` on every asset of `defs.py`, and the job `audit`.

It stands apart because Dagster runs all checks of an asset that its own code location has with every materialisation,
each in a process of its own: an audit is asked for, and is no part of a materialisation.
"""

from __future__ import annotations

import dagster as dg

from assets.operations.audit import build_audit, build_audit_job
from defs import build_defs
from home import Home
from io_managers.table_io_manager import TableIOManager


def build_audit_defs(home: Home | None = None) -> dg.Definitions:
    """The audit of everything that `build_defs` assembles for a home; default `$TRACEBED_HOME`."""
    home = home or Home.from_env()
    assets = [each for each in build_defs(home=home).assets or () if isinstance(each, dg.AssetsDefinition)]
    audited = build_audit(assets)
    return dg.Definitions(
        asset_checks=[audited],
        jobs=[build_audit_job(audited)],
        resources={"tables": TableIOManager(home=str(home.root))},
    )


defs = build_audit_defs()
