"""What every encoder is: the contract, the names of methods, and the file an encoder is kept in.

A method is named by a word of `BUILT_IN` or, for a plug-in, by "some.module:Class". Nothing here fits anything, and
nothing here knows where the platform keeps its files.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from science.spatial.section import Section

BUILT_IN = {
    "pca": "science.spatial.encoders.pca:PCAEncoder",
    "pca_smooth": "science.spatial.encoders.pca:SmoothedPCAEncoder",
    "partition_bank": "science.spatial.encoders.partition_bank:PartitionBank",
}
MIN_GENE_SHARE = 0.4
FILE_FORMAT = "tracebed-encoder-1"
REQUIRED_METADATA = ("cohort", "genes", "seed", "params", "versions")

Progress = Callable[[float, str], None]


def no_progress(fraction: float, message: str) -> None:
    """Report nothing."""


class EncoderError(ValueError):
    """An encoder that cannot be found, fitted, read or applied. The message says what to do."""


class GeneShareError(EncoderError):
    """A section has too few of the encoder's genes to be embedded."""


class Encoder(ABC):
    """A fitted encoder.

    A method implements `fit`, `embed`, `state` and `from_state`, and calls this constructor with what it was fitted
    on. Contract:

    - `fit` is deterministic for (cohort, seed, params). Its keyword arguments after ``progress`` are the method's
      parameters; an unknown one is refused by name (`check_params`).
    - `embed` changes nothing, depends on the section alone, and takes any section, also one outside the cohort. Genes
      that the section lacks are left out (`present_genes`), never taken as zero counts.
    - ``from_state(*encoder.state())`` gives the same embeddings to the last bit.

    Attributes
    ----------
    cohort : keys of the sections it was fitted on, sorted.
    genes : str ``[n_genes]``, genes it can use.
    seed, params : as given to `fit`; ``params`` holds defaults too.
    versions : versions at the time of fitting of the ``libraries`` that decide the numbers.
    """

    libraries: ClassVar[tuple[str, ...]] = ("numpy", "scipy")

    def __init__(
        self,
        *,
        cohort: Sequence[str],
        genes: np.ndarray,
        seed: int,
        params: Mapping[str, Any],
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.cohort = tuple(cohort)
        self.genes = np.asarray(genes, dtype=str)
        self.seed = int(seed)
        self.params = dict(params)
        self.versions = dict(versions or {name: importlib.metadata.version(name) for name in self.libraries})

    @classmethod
    @abstractmethod
    def fit(cls, cohort: Sequence[Section], *, seed: int, progress: Progress = no_progress) -> Self:
        """Fit on all sections of the cohort together. Methods add their parameters as keyword arguments."""

    @abstractmethod
    def embed(self, section: Section) -> np.ndarray:
        """Embedding of every spot, float32 ``[n_spots, d]``, in the order of the section."""

    @abstractmethod
    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays, and JSON-able metadata that includes `description`."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Self:
        """The encoder that `state` describes."""

    def description(self) -> dict[str, Any]:
        """What the constructor takes, JSON-able: ``cls(**description)`` for a method without further state."""
        return {
            "cohort": list(self.cohort),
            "genes": self.genes.tolist(),
            "seed": self.seed,
            "params": self.params,
            "versions": self.versions,
        }

    def gene_share(self, section: Section) -> float:
        """Share of the encoder's genes that the section has, 0 to 1."""
        return float(np.isin(self.genes, section.genes).mean())

    def present_genes(self, section: Section) -> np.ndarray:
        """Which of the encoder's genes the section has, bool ``[n_genes]``.

        Raises
        ------
        GeneShareError : their share is below the parameter ``min_gene_share`` (default 0.4).
        """
        share, limit = self.gene_share(section), float(self.params.get("min_gene_share", MIN_GENE_SHARE))
        if share < limit or share == 0:  # nothing to embed, whatever the limit
            raise GeneShareError(
                f"section {section.key} has gene share {share:.1%} for the encoder fitted on {', '.join(self.cohort)} "
                f"({len(self.genes)} genes); expected at least min_gene_share = {limit:.1%}. Missing genes are not "
                "taken as zero counts. Check that both name genes alike (symbols or Ensembl ids), load the section "
                "with more genes, fit an encoder on a cohort that includes it, or lower min_gene_share"
            )
        return np.isin(self.genes, section.genes)


def constructor_arguments(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an encoder's metadata that the constructor of `Encoder` takes."""
    return {name: metadata[name] for name in REQUIRED_METADATA}


def resolve(method: str) -> type[Encoder]:
    """Class of a method: a name of `BUILT_IN` or a plug-in "some.module:Class".

    Raises
    ------
    EncoderError : unknown name, module that cannot be found, or something that is not an `Encoder`.
    """
    module_name, _, class_name = BUILT_IN.get(method, method).partition(":")
    choice = f"expected one of {', '.join(BUILT_IN)}, or a plug-in 'some.module:Class' that can be imported"
    if not module_name or not class_name:
        raise EncoderError(f"no encoder is called {method!r}; {choice}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        raise EncoderError(f"encoder {method!r}: {missing}; {choice}; is its folder on PYTHONPATH?") from missing
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Encoder)):
        what = "has no such class" if found is None else "holds something else under that name"
        raise EncoderError(f"encoder {method!r}: module {module_name} {what}; expected a subclass of Encoder")
    return found


def check_params(method: str, params: Mapping[str, Any]) -> None:
    """Refuse parameters that the method's `fit` does not take.

    Raises
    ------
    EncoderError : names the unknown parameters and lists those that exist.
    """
    signature = inspect.signature(resolve(method).fit).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
        return
    allowed = [name for name in signature if name not in ("cohort", "seed", "progress")]
    unknown = sorted(set(params) - set(allowed))
    if unknown:
        raise EncoderError(f"{method} has no parameter {', '.join(unknown)}; it takes {', '.join(allowed)}")


def save_encoder(encoder: Encoder, method: str, path: Path) -> None:
    """Write a safetensors file; equal encoders give equal bytes.

    Raises
    ------
    EncoderError : ``method`` names another class, so the file could not be read back, or `state` leaves out what
        every encoder describes.
    """
    from safetensors.numpy import save

    if resolve(method) is not type(encoder):
        raise EncoderError(f"method {method!r} is {resolve(method).__name__}, the encoder {type(encoder).__name__}")
    arrays, metadata = encoder.state()
    missing = [name for name in REQUIRED_METADATA if name not in metadata]
    if missing:
        raise EncoderError(f"the state of {method} lacks {', '.join(missing)}; expected all that description() gives")
    # One metadata entry: safetensors writes several in the random order of a hash map.
    document = json.dumps({**metadata, "method": method}, sort_keys=True, allow_nan=False)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.write_bytes(save(contiguous, metadata={FILE_FORMAT: document}))


def encoder_metadata(path: Path) -> dict[str, Any]:
    """Metadata of an encoder file: method, params, seed, cohort, genes, versions and the method's own.

    Raises
    ------
    EncoderError : the file is not an encoder.
    """
    return _read(path)[1]


def load_encoder(path: Path) -> Encoder:
    """Read what `save_encoder` wrote.

    Raises
    ------
    EncoderError : the file is not an encoder, or its method cannot be found.
    """
    arrays, metadata = _read(path, with_arrays=True)
    return resolve(metadata["method"]).from_state(arrays, metadata)


def _read(path: Path, *, with_arrays: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    what_to_do = "expected a file written by save_encoder: fit the encoder again or give the path of one"
    if not path.is_file():
        raise EncoderError(f"there is no encoder file {path}; {what_to_do}")
    try:
        with safe_open(path, framework="numpy") as file:
            document = (file.metadata() or {}).get(FILE_FORMAT)
            arrays = {name: file.get_tensor(name) for name in file.keys()} if with_arrays else {}  # noqa: SIM118
    except SafetensorError as broken:
        raise EncoderError(
            f"{path} is not an encoder: it is not a whole safetensors file ({broken}); {what_to_do}"
        ) from (broken)
    if document is None:
        raise EncoderError(f"{path} is not an encoder: safetensors without the entry {FILE_FORMAT}; {what_to_do}")
    return arrays, json.loads(document)
