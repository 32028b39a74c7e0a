"""Where weights come from: readers of checkpoints, fingerprints of their leaves, and the verdict on their origin.

`readers.py` opens a checkpoint, `fingerprint.py` hashes its leaves, `bases.py` names the bases that are known, and
`origin.py` holds bytes, logs, configurations and the chain of attempts against each other. Nothing here imports torch,
jax or tensorstore before a checkpoint of that kind is read.
"""
