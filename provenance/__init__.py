"""Provenance: the records that lead from a number back to its bytes."""
