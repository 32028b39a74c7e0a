"""What the things of a trace are, in words for a reader who has never seen this platform.

One entry a table, and a glossary. `story.py` makes sentences of them; the pages show them beside each hop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from io_managers.addresses import table_of
from provenance.lineage import FILE
from provenance.tree import Node


@dataclass(frozen=True)
class Kind:
    """A kind of thing: what it is called, one and several, and what it is, in a sentence or two."""

    name: str
    plural: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    FILE: Kind(
        "source file",
        "source files",
        "A file from outside the platform. How it was made is not known here; its SHA-256 says which bytes were read.",
    ),
    "section_source": Kind(
        "registered source",
        "registered sources",
        "The note of which files a tissue section was read from, with the SHA-256 of each, written when it was added.",
    ),
    "section": Kind(
        "tissue section",
        "tissue sections",
        "One thin slice of tissue, measured at a few thousand spots on a grid: gene counts, a position, and (where "
        "someone annotated it) a layer label for each spot.",
    ),
    "section_as_target": Kind(
        "tissue section (searched)",
        "tissue sections (searched)",
        "The same rows as the tissue section, a second time: a comparison of two sections has one that asks (the "
        "source) and one that is searched (the target).",
    ),
    "encoder": Kind(
        "encoder",
        "encoders",
        "A method that turns the gene counts of a spot and its surroundings into a short list of numbers. It was "
        "fitted once, on the sections named here, and then applied to others without being changed.",
    ),
    "embedding": Kind(
        "embedding",
        "embeddings",
        "The list of numbers that the encoder gives each spot of a section. Spots with similar lists should have "
        "similar surroundings in the tissue; whether they do is what is measured.",
    ),
    "embedding_as_target": Kind(
        "embedding (searched)",
        "embeddings (searched)",
        "The same rows as the embedding of that section, a second time, for its role as the one that is searched.",
    ),
    "embedding_attempts": Kind(
        "validation",
        "validations",
        "What the checks said of one fit of an encoder; a fit that collapsed is refused and made again.",
    ),
    "rm_ideal": Kind(
        "RM-IDEAL reference",
        "RM-IDEAL references",
        "The reference answer: how similar the annotated surroundings of a spot of one section are to those of each "
        "spot of the other, computed from the layer labels alone (Wasserstein Weisfeiler-Lehman graph kernel).",
    ),
    "niche_query": Kind(
        "niche query",
        "niche queries",
        "Scores that say how well an embedding finds, in another section, spots whose surroundings (niches) resemble "
        "those of a query spot. The ranking by the embedding is held against the RM-IDEAL reference.",
    ),
    "niche_figure": Kind(
        "figure of a niche query",
        "figures of niche queries",
        "Maps of the reference beside maps of the embedding's similarity, for the eye.",
    ),
    "benchmark_spatial": Kind(
        "leaderboard of embeddings",
        "leaderboards of embeddings",
        "Every method's scores, averaged over all directed pairs of sections and all seeds, beside controls that know "
        "nothing (random) and that know the labels (oracles).",
    ),
    "demonstrations": Kind(
        "demonstrations",
        "sets of demonstrations",
        "Recorded episodes in which an expert solves the task; a policy is trained to imitate them.",
    ),
    "base_weights": Kind(
        "base weights",
        "sets of base weights",
        "The weights of a model that a training began with, described array by array by their hashes.",
    ),
    "base_checkpoint": Kind(
        "base",
        "bases",
        "The saved weights of a policy that was trained on several tasks at once, for others to begin from.",
    ),
    "checkpoint": Kind(
        "checkpoint",
        "checkpoints",
        "The saved weights of a robot policy at one step of its training: what acts in the episodes.",
    ),
    "train_attempts": Kind(
        "training attempt", "training attempts", "One attempt to train a policy, whatever became of it."
    ),
    "rollouts": Kind(
        "rollouts",
        "sets of rollouts",
        "Simulated episodes in which the policy acted alone. Each has a seed that decides where things lie and what "
        "chance does, and ends in success, failure, or an error, which counts as neither.",
    ),
    "success_rate": Kind(
        "success rate",
        "success rates",
        "The share of episodes that the policy solved, of those that ended in success or failure, with a 95 % Wilson "
        "interval. Errors are counted apart.",
    ),
    "videos": Kind("videos", "sets of videos", "Episodes drawn again from their stored states; nothing is re-run."),
    "diagnosis": Kind(
        "diagnosis",
        "diagnoses",
        "A verdict on why a success rate is as it is (the training, the configuration or the evaluation), with the "
        "evidence for and against.",
    ),
    "benchmark_policy": Kind(
        "leaderboard of policies",
        "leaderboards of policies",
        "The success rates of all policies by task, beside a scripted and a random control.",
    ),
    "benchmark_policy_pairs": Kind(
        "comparison of two policies",
        "comparisons of two policies",
        "Two policies on the seeds that both ran: the difference of their success rates and McNemar's exact p.",
    ),
}

METRICS: Mapping[str, str] = {
    "A": (
        "for each query spot, the rank correlation (Spearman) over all spots of the other section between the "
        "embedding's similarity and the reference; the mean over query spots; -1 to 1, chance is 0"
    ),
    "A_positive": "as A, over those spots only whose reference similarity is above 0",
    "B": (
        "one rank correlation between the similarity to the layer's mean embedding and the layer's mean reference; "
        "-1 to 1, chance is 0"
    ),
    "precision_at_50": "share of the 50 spots ranked first that are among the 50 best of the reference; 0 to 1",
    "same_label_at_50": "share of the 50 spots ranked first that have the query spot's layer; 0 to 1",
    "concentration": "share of the query spot's reference similarity that lies in the 50 spots ranked first; 0 to 1",
}
"""What the metrics of niche queries measure."""

_UNKNOWN = Kind("result", "results", "A result that this platform computed.")

GLOSSARY: Mapping[str, str] = {
    "content hash": (
        "A SHA-256 over the rows of a result (their names, types and values): equal rows have equal hashes, wherever "
        "and whenever they are stored. It is not the SHA-256 of the file that holds them. Source files and artifacts "
        "are named by the plain SHA-256 of their bytes."
    ),
    "run": "One execution that a user or a schedule started in the orchestrator (Dagster); its id is unique.",
    "code version": "The number that the code of this step carries; it is raised when what it computes changes.",
    "git commit": (
        "The revision of the whole code base that ran. `+dirty` means that files differed from that revision."
    ),
    "job": "The computation that a run handed to a site; a step without one was computed in the run itself.",
    "site": "A cluster or machine, by the name that the lab gave it; the node is the computer within it.",
    "attempt": "One try at a training or a fit. A resumed attempt goes on from a checkpoint of an earlier one.",
    "artifact": "A file that a step made, kept under the SHA-256 of its bytes.",
    "seed": "The number that decides every random draw; the same seed gives the same draws.",
    "95 % interval": (
        "A range made by a rule that covers the true value in 95 of 100 repetitions. It speaks of chance in these "
        "episodes or spots only, not of another training, section or donor."
    ),
    "superseded": "What is published in that place now is another result, so the number would come out anew.",
    "carried over": "Rows that were in an earlier version of the same result and were taken over unchanged.",
}


def table_name(node: Node) -> str:
    """The table that a node's rows are in; `file` for a file."""
    return FILE if node.asset == FILE else table_of(node.asset)[0]


def kind_of(node: Node) -> Kind:
    """What kind of thing a node is."""
    return KINDS.get(table_name(node), _UNKNOWN)
