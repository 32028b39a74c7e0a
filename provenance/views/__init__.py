"""A trace as text, JSON, Graphviz, a page, or the records of other projects. Nothing here looks anything up."""
