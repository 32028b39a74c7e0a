"""The number of a trace in words: a title, and the paragraph that tells where it is from.

Sentences are made of what the nodes say (`Node.facts`) and of the value's own rows; nothing is looked up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from provenance.lineage import FILE
from provenance.tree import CARRIED, Node, Trace
from provenance.views.explained import kind_of, table_name
from provenance.views.values import short_hashes
from provenance.views.wording import heading

_NAMED = 4


def title(trace: Trace) -> str:
    """What the number is, without its value."""
    name = table_name(trace.nodes[trace.root])
    teller = _TITLES.get(name)
    return teller(_Value(trace)) if teller and not trace.value.is_empty() else heading(trace)


def story(trace: Trace) -> list[str]:
    """Sentences from the number to its sources, in plain words."""
    by_kind: dict[str, list[Node]] = defaultdict(list)
    root = trace.nodes[trace.root]
    for node in trace.nodes.values():
        if (node.asset, node.partition) != (root.asset, root.partition):
            by_kind[table_name(node)].append(node)
    first = _OPENINGS.get(table_name(root))
    sentences = [first(_Value(trace)) if first and not trace.value.is_empty() else f"This is {heading(trace)}."]
    if any(edge.how == CARRIED for edge in root.inputs):
        sentences.append("Some of its rows were carried over from an earlier version of the same result.")
    for name in sorted(by_kind, key=_reading_order):
        sentences.append(_TELLERS.get(name, _plain)(by_kind[name]))
    if not by_kind:
        sentences.append("It was made from nothing else that is recorded.")
    return [each for each in sentences if each] + [_closing(trace)]


class _Value:
    """The rows that are traced, seen as one thing."""

    def __init__(self, trace: Trace):
        self.rows, self.node = trace.value, trace.nodes[trace.root]

    def __getitem__(self, column: str) -> str:
        return _listed([str(each) for each in self.rows[column].unique(maintain_order=True).to_list()])

    @property
    def one(self) -> bool:
        return self.rows.height == 1


def _reading_order(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _listed(texts: Sequence[str]) -> str:
    shown = list(dict.fromkeys(texts))
    between = "; " if any("," in each for each in shown) else ", "
    if len(shown) > _NAMED + 1:
        return between.join(shown[:_NAMED]) + f" and {len(shown) - _NAMED} more"
    if between == "; ":
        return between.join(shown)
    return " and ".join([*filter(None, [", ".join(shown[:-1])]), *shown[-1:]])


def _fact(node: Node, label: str) -> str:
    return next((short_hashes(each.text) for each in node.facts if each.label == label), "")


def _facts(nodes: Sequence[Node], label: str) -> str:
    return _listed([text for node in nodes if (text := _fact(node, label))])


_TITLES: Mapping[str, Callable[[_Value], str]] = {
    "success_rate": lambda value: f"Success rate of the policy {value['policy']} on the task {value['task']}",
    "benchmark_policy": lambda value: f"Success rates of {value['policy']} on {value['task']}",
    "benchmark_policy_pairs": lambda value: f"Policies compared on {value['task']}",
    "niche_query": lambda value: f"Niche query with {value['method']}, from {value['source']} to {value['target']}",
    "niche_figure": lambda value: f"Figures of {value['method']}, from {value['source']} to {value['target']}",
    "benchmark_spatial": lambda value: f"Mean scores of {value['method']}",
    "videos": lambda value: f"Videos of the policy {value['policy']} on the task {value['task']}",
    "diagnosis": lambda value: f"Diagnosis of {value['policy']} on {value['task']}: {value['verdict']}",
}


def _open_rate(value: _Value) -> str:
    if not value.one:
        return (
            f"These success rates say in what share of simulated episodes {value['policy']} solved {value['task']} "
            f"(suite {value['suite']})."
        )
    row = value.rows.row(0, named=True)
    arm = "" if row["arm"] == "control" else f", disturbed in each of them as arm “{row['arm']}” says,"
    return (
        f"This success rate was measured on {row['n']} simulated episodes: the robot policy “{row['policy']}”{arm} "
        f"solved the task “{row['task']}” (suite “{row['suite']}”) in {row['successes']} of them."
    )


_OPENINGS: Mapping[str, Callable[[_Value], str]] = {
    "success_rate": _open_rate,
    "benchmark_policy": _open_rate,
    "benchmark_policy_pairs": lambda value: (
        f"This compares {value['policy_a']} with {value['policy_b']} on {value['task']}, on the seeds that both ran."
    ),
    "niche_query": lambda value: (
        f"{'This score says' if value.one else 'These scores say'} how well the embedding “{value['method']}” finds, "
        f"in section “{value['target']}”, spots whose surroundings resemble those of a query spot in section "
        f"“{value['source']}”."
    ),
    "niche_figure": lambda value: (
        f"These figures show the embedding “{value['method']}” for queries of section “{value['source']}” in section "
        f"“{value['target']}”."
    ),
    "benchmark_spatial": lambda value: (
        f"{'This is the mean score' if value.one else 'These are the mean scores'} of {value['method']} over all "
        "directed pairs of sections that had been compared by then."
    ),
    "videos": lambda value: f"These videos show episodes of the policy “{value['policy']}” on “{value['task']}”.",
    "diagnosis": lambda value: (
        f"This verdict, {value['verdict']}, was reached on the rate of “{value['policy']}” on “{value['task']}”."
    ),
}


def _named(nodes: Sequence[Node]) -> str:
    return _listed([each.partition or each.asset for each in nodes])


def _plain(nodes: Sequence[Node]) -> str:
    kind = kind_of(nodes[0])
    if len(nodes) == 1:
        return f"It stands on {_article(kind.name)} ({nodes[0].title})."
    return f"It stands on {len(nodes)} {kind.plural} ({_listed([each.title for each in nodes])})."


def _article(name: str) -> str:
    if name in ("rollouts", "demonstrations", "videos", "base weights"):
        return name
    return ("an " if name[0].lower() in "aeiou" or name.startswith("RM-") else "a ") + name


def _tell_rollouts(nodes: Sequence[Node]) -> str:
    if len(nodes) > 1:
        return f"The episodes come from {len(nodes)} sets of rollouts ({_listed([each.title for each in nodes])})."
    told = [
        f"{each.label.removeprefix('episodes, ')}: {each.text}" for each in nodes[0].facts if "episodes" in each.label
    ]
    return "The episodes (rollouts) were " + ("; ".join(told) or "run as recorded below") + "."


def _tell_checkpoint(nodes: Sequence[Node]) -> str:
    told = _facts(nodes, "checkpoint")
    imported = _facts(nodes, "imported from")
    origin = f" It was not trained here but imported from {imported}." if imported else ""
    attempts = [each.text for node in nodes for each in node.facts if each.label == "attempt"]
    trained = f" Its training: {'; before that, '.join(attempts)}." if attempts else ""
    acted = "The policy that acted in them" if len(nodes) == 1 else f"The {len(nodes)} policies that acted in them"
    verb = "is this checkpoint:" if len(nodes) == 1 else "are these checkpoints:"
    base = _facts(nodes, "base weights")
    weights = f" Where its weights began: {base}." if base else ""
    return f"{acted} {verb} {told or _named(nodes)}.{trained}{weights}{origin}"


def _tell_demonstrations(nodes: Sequence[Node]) -> str:
    told = _facts(nodes, "demonstrations") or _named(nodes)
    return f"It was trained on demonstrations of an expert: {told}."


def _tell_rm_ideal(nodes: Sequence[Node]) -> str:
    if len(nodes) > 1:
        return (
            f"The reference answers (RM-IDEAL) of {len(nodes)} directed pairs were computed from the annotated layers "
            "of both sections of each pair."
        )
    told = _fact(nodes[0], "RM-IDEAL")
    return "The reference answer (RM-IDEAL) was computed from the annotated layers of both sections" + (
        f": {told}." if told else "."
    )


def _tell_embedding(nodes: Sequence[Node]) -> str:
    told = _facts(nodes, "embedding")
    judged = "is the embedding" if len(nodes) == 1 else f"are {len(nodes)} embeddings"
    return f"What was judged {judged}: {told or _named(nodes)}."


def _tell_encoder(nodes: Sequence[Node]) -> str:
    return f"Embeddings are made by an encoder that was fitted once: {_facts(nodes, 'encoder') or _named(nodes)}."


def _tell_section(nodes: Sequence[Node]) -> str:
    told = _facts(nodes, "section") or _named(nodes)
    simulated = " (simulated: no tissue stands behind them)" if "SIMULATED" in told else ""
    return f"The tissue: {told.replace(', SIMULATED', '')}{simulated}."


def _tell_files(nodes: Sequence[Node]) -> str:
    if len(nodes) == 1:
        return "It goes back to one file from outside, named here with its SHA-256."
    return f"It goes back to {len(nodes)} files from outside, named here with their SHA-256."


def _nothing(nodes: Sequence[Node]) -> str:
    """Mirrors and registrations: their originals and files are told."""
    return ""


_TELLERS: Mapping[str, Callable[[Sequence[Node]], str]] = {
    "rollouts": _tell_rollouts,
    "checkpoint": _tell_checkpoint,
    "demonstrations": _tell_demonstrations,
    "rm_ideal": _tell_rm_ideal,
    "embedding": _tell_embedding,
    "encoder": _tell_encoder,
    "section": _tell_section,
    FILE: _tell_files,
    "embedding_as_target": _nothing,
    "section_as_target": _nothing,
    "section_source": _nothing,
}

_ORDER = (
    "success_rate",
    "niche_query",
    "rollouts",
    "checkpoint",
    "base_weights",
    "base_checkpoint",
    "demonstrations",
    "rm_ideal",
    "embedding",
    "embedding_as_target",
    "encoder",
    "section",
    "section_as_target",
    "section_source",
    FILE,
)


def _closing(trace: Trace) -> str:
    records = [each.record for each in trace.nodes.values() if each.record is not None]
    if not records:
        return "No record of any computation was found."
    first, last = min(each.recorded_at for each in records), max(each.recorded_at for each in records)
    commits = len({each.git_commit for each in records})
    when = f"on {first:%-d %B %Y}" if first.date() == last.date() else f"from {first:%-d %B %Y} to {last:%-d %B %Y}"
    steps = "1 recorded step" if len(records) == 1 else f"{len(records)} recorded steps"
    leads = "leads" if len(records) == 1 else "lead"
    revisions = "one revision" if commits == 1 else f"{commits} revisions"
    return f"{steps}, computed {when} with {revisions} of the code, {leads} from these sources to the result."
