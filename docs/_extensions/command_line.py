"""The directive `command-line`: every command's `--help`, as the program prints it."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covis.cli import COMMANDS, run_command

WIDTH = "84"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def help_of(*arguments: str) -> str:
    """What `covis ARGUMENTS --help` prints, in lines of a fixed width."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            code = run_command([*arguments, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    if code:
        raise RuntimeError(f"covis {' '.join(arguments)} --help ended with exit code {code}")
    return "\n".join(line.rstrip() for line in _COLOUR.sub("", out.getvalue()).splitlines())


class CommandLine(SphinxDirective):
    """The overview, then a section for each command."""

    def run(self) -> list[nodes.Node]:
        """The nodes that take the directive's place."""
        parts = [f"## covis\n\n```text\n{help_of()}\n```"]
        for name, command in COMMANDS.items():
            parts.append(f"## covis {name}\n\n{command.summary}\n\n```text\n{help_of(name)}\n```")
        return self.parse_text_to_nodes("\n\n".join(parts), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"version": "1", "parallel_read_safe": True}
