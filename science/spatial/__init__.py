"""Spatial niches: sections of tissue, RM-IDEAL, encoders, metrics and figures."""
