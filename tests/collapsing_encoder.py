"""Encoders that collapse, for tests: plug-ins with tests/ on the path.

"collapsing_encoder:CollapsesOnFirstSeed" collapses with any seed below 1000, so with the first fit of every seed of a
variant, and recovers with the first refit. "collapsing_encoder:NeverRecoversForOneSection" loses the section
that its parameter ``section`` names, with every seed, and embeds the others well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from science.spatial.encoders.base import Encoder, Progress, constructor_arguments, no_progress
from science.spatial.encoders.preprocess import ordered_cohort, shared_genes, smoothed, standardised
from science.spatial.fitting import SEED_STEP
from science.spatial.section import Section

N_DIMS = 12


class RandomProjection(Encoder):
    """Smoothed random projection of the standardised counts: a fast encoder that is not bad."""

    libraries = ("numpy",)

    @classmethod
    def fit(cls, cohort: Sequence[Section], *, seed: int, progress: Progress = no_progress, **params: Any) -> Self:
        sections = ordered_cohort(cohort)
        progress(1.0, "drawn")
        return cls(cohort=[s.key for s in sections], genes=shared_genes(sections), seed=seed, params=params)

    def embed(self, section: Section) -> np.ndarray:
        present = self.present_genes(section)
        axes = np.random.default_rng(self.seed).standard_normal((len(self.genes), N_DIMS))
        z = standardised(section, self.genes[present]) @ axes[present]
        return smoothed(z, section.adjacency, 2).astype(np.float32)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {}, self.description()

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Self:
        return cls(**constructor_arguments(metadata))


class CollapsesOnFirstSeed(RandomProjection):
    """One vector for every spot, unless it was refitted."""

    def embed(self, section: Section) -> np.ndarray:
        z = super().embed(section)
        return z if self.seed >= SEED_STEP else np.ones_like(z)


class NeverRecoversForOneSection(RandomProjection):
    """Zero rows for half of one section, with every seed."""

    @classmethod
    def fit(
        cls, cohort: Sequence[Section], *, seed: int, progress: Progress = no_progress, section: str = "", **params: Any
    ) -> Self:
        return super().fit(cohort, seed=seed, progress=progress, section=section, **params)

    def embed(self, section: Section) -> np.ndarray:
        z = super().embed(section)
        if section.key == self.params["section"]:
            z[::2] = 0
        return z
