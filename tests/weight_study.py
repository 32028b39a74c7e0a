"""A study of origins that is really trained: small models, a base, its siblings, and fine-tunes of every kind.

Pretraining predicts tokens and uses the final norm; fine-tuning predicts actions and does not, so that the final norm
gets no gradient there, as in a policy whose language head is not used. `weight_study_jax.py` writes it with orbax as
openpi does (frozen leaves in bfloat16), `weight_study_torch.py` as state dicts and as safetensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from provenance.weights.candidates import Candidate
from provenance.weights.fingerprint import Fingerprint, fingerprint
from provenance.weights.readers import open_weights

TOKENS, WIDTH, ACTIONS, LAYERS, RANK = 40, 24, 7, 2, 4
STEPS, RATE = 4, 0.2


@dataclass
class Study:
    """Checkpoints by name, and the logs of trainings where the library writes one.

    Bases: `pi05_base`, `pi05_libero` (a full fine-tune of it), `stranger`. Runs: `lora_from_base`, `lora_from_libero`,
    `full_from_base` (the final norm stays), `full_of_everything` (from the base, every leaf changes), `scratch`,
    `resumed_from_base` (a LoRA run in two attempts).
    """

    paths: dict[str, Path]
    logs: dict[str, str] = field(default_factory=dict)
    _read: dict[str, Fingerprint] = field(default_factory=dict)

    def fingerprint(self, name: str) -> Fingerprint:
        if name not in self._read:
            self._read[name] = fingerprint(open_weights(self.paths[name]))
        return self._read[name]

    def candidate(self, name: str, called: str | None = None) -> Candidate:
        return Candidate(called or name, self.fingerprint(name), (str(self.paths[name]),))

    def candidates(self, *names: str) -> list[Candidate]:
        return [self.candidate(name) for name in names or ("pi05_base", "pi05_libero")]


def batches(seed: int) -> Iterator[dict[str, np.ndarray]]:
    """What a training sees, as NumPy arrays."""
    generator = np.random.default_rng([1, seed])
    for _ in range(STEPS):
        yield {
            "image": generator.normal(size=(64, 12)).astype(np.float32),
            "tokens": generator.integers(0, TOKENS, 64).astype(np.int32),
            "next": generator.integers(0, TOKENS, 64).astype(np.int32),
            "actions": generator.normal(size=(64, ACTIONS)).astype(np.float32),
        }
