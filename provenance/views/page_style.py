"""How the page of a trace looks, on a screen and on A4 paper. Nothing is loaded from anywhere."""

STYLE = """
:root { color-scheme: light; --ink: #1c2530; --quiet: #5b6672; --line: #d5dbe1; --pale: #f5f7f9; --accent: #1a5fb4;
  --warn: #a3122a; --warn-pale: #fdeef0; }
* { box-sizing: border-box; }
html { background: #fff; }
body { margin: 0 auto; padding: 2.2rem 1.4rem 4rem; max-width: 50rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: .2rem 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.02rem; margin: 0; }
p { margin: .5rem 0; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
code, .hash, pre { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace; font-size: .84em; }
.hash, .path { overflow-wrap: anywhere; }
.kicker { color: var(--quiet); font-size: .9rem; margin: 0; }
.value { font-size: 2.6rem; font-weight: 650; line-height: 1.1; margin: .4rem 0 .1rem; }
.over { font-size: 1.05rem; color: var(--ink); margin: 0 0 .6rem; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; font-size: .92rem; }
th { text-align: left; font-weight: 600; border-bottom: 1.5px solid var(--line); padding: .25rem .6rem .25rem 0; }
td { vertical-align: top; border-bottom: 1px solid var(--line); padding: .28rem .6rem .28rem 0; }
td.figure { font-weight: 650; white-space: nowrap; }
.facts td:first-child { width: 11.5rem; color: var(--quiet); }
.facts td:last-child { overflow-wrap: anywhere; }
.banner { border: 2px solid var(--warn); background: var(--warn-pale); border-radius: 6px; padding: .6rem 1rem;
  margin: 1rem 0; }
.banner strong { color: var(--warn); }
.banner ul { margin: .3rem 0 .2rem; padding-left: 1.2rem; }
.story { font-size: 1.05rem; }
.overview { display: block; width: 100%; height: auto; margin: .8rem auto 0; }
.overview text { font: 11.5px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; text-anchor: middle;
  fill: var(--quiet); }
.overview text.name { fill: var(--ink); font-weight: 600; }
dl.metrics { font-size: .86rem; columns: 2; column-gap: 1.6rem; }
dl.metrics dt, dl.metrics dd { break-inside: avoid; }
dl.metrics dt { break-after: avoid; }
dl.metrics dd { margin: 0 0 .35rem; font-size: inherit; }
.overview .box { fill: #fff; stroke: #8a97a5; stroke-width: 1.2; }
.overview .number { fill: #e8f0fb; stroke: var(--accent); stroke-width: 2; }
.overview .file { fill: var(--pale); stroke-dasharray: 2 2; }
.overview .old { fill: var(--warn-pale); stroke: var(--warn); stroke-dasharray: 5 3; stroke-width: 2; }
.overview .arrow { fill: none; stroke: #8a97a5; stroke-width: 1.2; }
.overview .tip { fill: #8a97a5; }
.hop { border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem .7rem; margin: 0 0 .9rem; }
.hop.number { border-color: var(--accent); }
.hop.old { border: 2px dashed var(--warn); }
.hop .step { display: inline-block; min-width: 1.7em; padding: 0 .35em; margin-right: .5em; border-radius: .9em;
  background: var(--ink); color: #fff; text-align: center; font-size: .85em; }
.hop .which { color: var(--quiet); font-weight: 400; overflow-wrap: anywhere; }
.meaning { color: var(--quiet); font-size: .93rem; margin: .3rem 0 .4rem; }
.from { font-size: .93rem; margin: .35rem 0; }
.old-note { color: var(--warn); font-weight: 600; margin: .3rem 0; }
.small { font-size: .78rem; color: var(--quiet); margin: .5rem 0 0; padding-top: .4rem;
  border-top: 1px dotted var(--line); overflow-wrap: anywhere; line-height: 1.45; }
.small b { font-weight: 600; color: #46505b; }
pre { background: var(--pale); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; margin: .5rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
dl.terms { margin: .4rem 0; }
dl.terms dt { font-weight: 600; }
dl.terms dd { margin: 0 0 .5rem 1.2rem; color: #3d4752; font-size: .95rem; }
footer { margin-top: 2.5rem; color: var(--quiet); font-size: .85rem; border-top: 1px solid var(--line);
  padding-top: .6rem; }
@page { size: A4; margin: 16mm 15mm; }
@media print {
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; font-size: 9.5pt; line-height: 1.38; }
  h1 { font-size: 17pt; } h2 { font-size: 13pt; margin-top: 1.4rem; } .value { font-size: 24pt; }
  h2, h3, .meaning { break-after: avoid; }
  .hop, .banner, dl.terms dt, tr, svg { break-inside: avoid; }
  dl.terms dt { break-after: avoid; }
  .hop { padding: .5rem .8rem; margin-bottom: .6rem; }
  .overview { max-height: 95mm; }
  a { color: inherit; }
}
"""
