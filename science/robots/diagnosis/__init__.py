"""Training failure or evaluation bug? A verdict on a success rate, with the evidence for and against it.

`evidence.py` says what can be measured, `facts.py` what can be known of the settings, `faults.py` and
`environment_faults.py` which of these are known to bring a rate to 0, `evaluator_readings.py` and `policy_readings.py`
what each piece says by itself, `verdict.py` what they say together, `report.py` how it is shown. Nothing is measured
here, and nothing heavy is imported.
"""

from science.robots.diagnosis.evidence import (
    ActionError,
    Consistency,
    Counts,
    Evidence,
    EvidenceError,
    Starts,
    starts_outside,
)
from science.robots.diagnosis.facts import Facts, Fault, Severity
from science.robots.diagnosis.faults import config_faults
from science.robots.diagnosis.reasons import Piece, Reason, State, Verdict
from science.robots.diagnosis.report import Cause, Diagnosis
from science.robots.diagnosis.verdict import diagnose

__all__ = [
    "ActionError",
    "Cause",
    "Consistency",
    "Counts",
    "Diagnosis",
    "Evidence",
    "EvidenceError",
    "Facts",
    "Fault",
    "Piece",
    "Reason",
    "Severity",
    "Starts",
    "State",
    "Verdict",
    "config_faults",
    "diagnose",
    "starts_outside",
]
