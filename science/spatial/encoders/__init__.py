"""Encoders: fitted jointly on a named cohort of sections, then applied to any section without a refit.

`base.py` holds the contract, the names and the files; each other module one method or what methods share. Whether an
embedding is fit for use is decided in `science/spatial/validation.py`, refits after a collapse in `fitting.py`.
"""

from science.spatial.encoders.base import (
    Encoder,
    EncoderError,
    GeneShareError,
    encoder_metadata,
    load_encoder,
    resolve,
    save_encoder,
)

__all__ = [
    "Encoder",
    "EncoderError",
    "GeneShareError",
    "encoder_metadata",
    "load_encoder",
    "resolve",
    "save_encoder",
]
