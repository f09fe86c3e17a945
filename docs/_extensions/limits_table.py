"""The directive `limits`: every limit of what is read, from its one definition."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covis.engines.limits import TABLE


class Limits(SphinxDirective):
    """A table of all limits: what, how much, why."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes that take the directive's place."""
        lines = ["| what | at most | why |", "|---|---|---|"]
        lines += [f"| {limit.what} | {limit} | {limit.why} |" for limit in TABLE]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("limits", Limits)
    return {"version": "1", "parallel_read_safe": True}
