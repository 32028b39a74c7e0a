"""A trace as one self-contained page for a reader who knows nothing of the platform.

It needs no script, no network and no other file; it prints on A4. From the number to its sources, hop by hop: what each
thing is, what it says, how it is named by its content, and, in small print, what computed it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from html import escape

from provenance.facts import Fact
from provenance.lineage import FILE
from provenance.tree import CARRIED, Node, Trace
from provenance.views.explained import GLOSSARY, METRICS, kind_of, table_name
from provenance.views.levels import in_reading_order
from provenance.views.overview import overview
from provenance.views.page_style import STYLE
from provenance.views.story import story, title
from provenance.views.values import Number, numbers
from provenance.views.wording import computed, heading, versions

_SHA256 = re.compile("[0-9a-f]{64}")


def as_html(trace: Trace) -> str:
    """The page, complete."""
    nodes = in_reading_order(trace)
    hops = {node.id: number for number, node in enumerate(nodes, 1)}
    firsts = {node.id for node in {table_name(node): node for node in reversed(nodes)}.values()}
    parts = [
        _header(trace),
        _superseded(trace),
        _problems_notice(trace),
        f'<section><h2>In short</h2><p class="story">{escape(" ".join(story(trace)))}</p>',
        overview(trace, {node: f"hop-{number}" for node, number in hops.items()}),
        "</section>",
        "<section><h2>From the number to its sources</h2>",
        *(_hop(trace, node, hops, explain=node.id in firsts) for node in nodes),
        "</section>",
        _libraries(trace),
        _how_to_verify(trace),
        _problems(trace),
        _glossary(),
        "<footer>Made by tracebed from the lineage records that were written when each of these results was "
        "published.</footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_one_line(trace))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(each for each in parts if each)
        + "\n</body>\n</html>\n"
    )


def _one_line(trace: Trace) -> str:
    told = numbers(trace)
    return f"{title(trace)}: {told[0].value}" if len(told) == 1 else title(trace)


def _header(trace: Trace) -> str:
    root, told = trace.nodes[trace.root], numbers(trace)
    values = _headline(told[0]) if len(told) == 1 else _values(told, _metrics(trace))
    return (
        '<header><p class="kicker">Where this result comes from</p>'
        f"<h1>{escape(title(trace))}</h1>{values}"
        f'<p class="kicker path">{escape(heading(trace))} · content hash <span class="hash">'
        f"{escape(root.content_hash)}</span></p></header>"
    )


def _headline(number: Number) -> str:
    over = " · ".join(each for each in (number.n, number.interval) if each)
    meaning = f'<p class="meaning">{escape(number.meaning)}</p>' if number.meaning else ""
    return (
        f'<p class="value">{escape(number.value)}</p><p class="over">{escape(number.name)}: {escape(over)}</p>{meaning}'
    )


def _values(told: list[Number], metrics: list[str]) -> str:
    if not told:
        return ""
    rows = "".join(
        f'<tr><td>{escape(each.name)}</td><td class="figure">{escape(each.value)}</td><td>{escape(each.n)}</td>'
        f"<td>{escape(each.interval)}</td></tr>"
        for each in told
    )
    table = f"<table><tr><th>what</th><th>value</th><th>over</th><th>range</th></tr>{rows}</table>"
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(METRICS[name])}</dd>" for name in metrics)
    return table + (f'<dl class="terms metrics">{terms}</dl>' if terms else "")


def _metrics(trace: Trace) -> list[str]:
    """The metrics of the rows that are explained, each once."""
    if "metric" not in trace.value.columns:
        return []
    return [each for each in trace.value["metric"].unique(maintain_order=True) if each in METRICS]


def _superseded(trace: Trace) -> str:
    if not trace.superseded:
        return ""
    return (
        '<div class="banner"><strong>Superseded.</strong> This is not what would be computed now: something that it '
        f"stands on was replaced since.{_list(trace.superseded)}</div>"
    )


def _problems_notice(trace: Trace) -> str:
    if not trace.problems:
        return ""
    n = len(trace.problems)
    what = "1 thing" if n == 1 else f"{n} things"
    return (
        f'<div class="banner"><strong>Not complete.</strong> {what} could not be followed or read; '
        '<a href="#not-followed">they are listed below</a>.</div>'
    )


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in texts) + "</ul>"


def _hop(trace: Trace, node: Node, hops: Mapping[str, int], explain: bool) -> str:
    """One hop; what a kind of thing is stands at the first of its kind."""
    kind = kind_of(node)
    state = " old" if node.superseded else (" number" if node.id == trace.root else "")
    which = node.address if node.asset == FILE else node.title
    told = node.id == trace.root and numbers(trace)
    hashed = "SHA-256 of its bytes" if node.asset == FILE else "Content hash"
    parts = [
        f'<article class="hop{state}" id="hop-{hops[node.id]}"><h3><span class="step">{hops[node.id]}</span>'
        f'{escape(kind.name[:1].upper() + kind.name[1:])} <span class="which">{escape(which)}</span></h3>',
        f'<p class="meaning">{escape(kind.meaning)}</p>' if explain else "",
        f'<p class="old-note">Superseded: {escape(node.superseded)}.</p>' if node.superseded else "",
        '<p class="from">Its values stand at the top of this page.</p>' if told else _facts(node),
        f'<p class="from">{hashed}: <span class="hash">{escape(node.content_hash)}</span></p>',
        _made_from(node, hops),
        "".join(f'<p class="old-note">{escape(each)}</p>' for each in node.problems),
        _small_print(node),
        "</article>",
    ]
    return "".join(parts)


def _facts(node: Node) -> str:
    if node.asset == FILE:
        return ""
    rows = "".join(f"<tr><td>{escape(each.label)}</td><td>{_fact_text(each)}</td></tr>" for each in node.facts)
    return f'<table class="facts">{rows}</table>' if rows else ""


def _fact_text(fact: Fact) -> str:
    if not fact.artifact:
        return escape(fact.text)
    name = f'<span class="hash">artifact {escape(fact.artifact)}</span>'
    digest = fact.artifact.partition(".")[0]
    text = fact.text.removesuffix(f"sha256 {digest}").rstrip(", ")  # the artifact's name says it
    return f"{escape(text)}<br>{name}" if text else name


def _made_from(node: Node, hops: Mapping[str, int]) -> str:
    if not node.inputs:
        if node.asset == FILE or node.record is None:
            return ""
        return '<p class="from">Made from nothing that is recorded.</p>'
    told = ", ".join(
        f'<a href="#hop-{hops[edge.node]}">{hops[edge.node]}</a>'
        + (" (rows carried over)" if edge.how == CARRIED else "")
        for edge in node.inputs
    )
    return f'<p class="from">Made from: {told}</p>'


def _small_print(node: Node) -> str:
    if node.asset == FILE:
        return ""
    told = [*computed(node)]
    if node.record is not None and node.record.config:
        told.append(("configuration", json.dumps(node.record.config, default=str, ensure_ascii=False)))
    if node.n_rows is not None:
        told.append(("rows that count", str(node.n_rows)))
    told.append(("stored at", node.address))
    return '<p class="small">' + " · ".join(f"<b>{escape(a)}</b> {escape(b)}" for a, b in told) + "</p>"


def _libraries(trace: Trace) -> str:
    shared, differ = versions(trace)
    if not shared and not differ:
        return ""
    told = ", ".join(f"{name} {found}" for name, found in shared.items())
    steps = [node for node in trace.nodes.values() if node.record is not None]
    same = "Every step used the same." if len(steps) > 1 else ""
    others = f"<p>Steps that used another version:</p>{_list(differ)}" if differ else f"<p>{same}</p>"
    return f"<section><h2>Software that decides the numbers</h2><p>{escape(told)}.</p>{others}</section>"


def _how_to_verify(trace: Trace) -> str:
    root = trace.nodes[trace.root]
    place = shlex.join([root.asset, *([root.partition] if root.partition else [])])
    at = f" --at {shlex.quote(root.run_id)}" if root.run_id else ""
    selected = f"{root.asset}:{root.partition}" if root.partition else root.asset
    values = "".join(f" --value {shlex.quote(f'{name}={text}')}" for name, text in trace.where.items())
    commands = [
        ("this trace again, from the records", f"tracebed trace {place}{values}{at}"),
        ("hold records, events and bytes against each other", f"tracebed audit {shlex.quote(selected)}"),
        ("compute it again and compare", f"tracebed replay {place}{at}"),
    ]
    lines = "\n".join(f"{command}   # {what}" for what, command in commands)
    files = [
        f"{node.content_hash}  {node.address}"
        for node in trace.nodes.values()
        if node.asset == FILE and _SHA256.fullmatch(node.content_hash)
    ]
    parts = [
        "<section><h2>How to verify it</h2>",
        f"<p>With the platform and its data at hand:</p><pre>{escape(lines)}</pre>",
    ]
    if files:
        parts.append(
            "<p>The source files, without the platform: save these lines as <code>files.sha256</code> and run "
            f"<code>sha256sum -c files.sha256</code>.</p><pre>{escape(chr(10).join(files))}</pre>"
        )
    if artifacts := _artifacts(trace):
        lines = "\n".join(f"{name.partition('.')[0]}  {name[:2]}/{name}" for name in artifacts)
        parts.append(
            "<p>The artifacts, in the folder <code>artifacts</code> of the platform's data, in the same way:</p>"
            f"<pre>{escape(lines)}</pre>"
        )
    return "".join([*parts, "</section>"])


def _artifacts(trace: Trace) -> list[str]:
    names = [each.artifact for node in trace.nodes.values() for each in node.facts if each.artifact]
    return list(dict.fromkeys(names))


def _problems(trace: Trace) -> str:
    told = _list(trace.problems) if trace.problems else "<p>Nothing: every recorded input was found and read.</p>"
    return f'<section id="not-followed"><h2>What could not be followed</h2>{told}</section>'


def _glossary() -> str:
    terms = "".join(_term(name, meaning) for name, meaning in GLOSSARY.items())
    return f'<section><h2>Words used here</h2><dl class="terms">{terms}</dl></section>'


def _term(name: str, meaning: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>"
