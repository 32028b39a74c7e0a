"""The spatial stream, in the order in which one artifact is made from another.

`sections.py`, `encoders.py` (encoder, embedding and its mirror), `rm_ideal.py`, `niche_query.py`, `niche_figure.py`,
`benchmark.py`. Encoder variants come from `encoders.toml` through `variants.py`.
"""
