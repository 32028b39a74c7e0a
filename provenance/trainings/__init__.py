"""Trainings: what is known of one, and how two compare."""
