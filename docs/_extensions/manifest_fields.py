"""The directive `manifest-fields`: every field of `manifest.json`, from its classes."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from docstring_parser import parse
from docutils import nodes
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covis.engines.bundle import manifest


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and those that its fields hold, each once, in the order of the fields."""
    found: list[type[BaseModel]] = []

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
            found.append(kind)
            for field in kind.model_fields.values():
                visit(field.annotation)
        for argument in get_args(kind):
            visit(argument)

    visit(model)
    return found


def section(model: type[BaseModel]) -> str:
    """Heading, docstring and table of one model, in Markdown."""
    docs = parse(inspect.getdoc(model) or "")
    words = {item.arg_name: " ".join((item.description or "").split()) for item in docs.params}
    lines = [f"### {model.__name__}", "", docs.short_description or "", ""]
    if docs.long_description:
        lines += [docs.long_description, ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        kind = model.__annotations__.get(name) or inspect.formatannotation(field.annotation)
        given = field.get_default(call_default_factory=True, validated_data={})
        default = "" if given is PydanticUndefined else f"`{given!r}`"
        cells = (f"`{name}`", f"`{kind}`", default, words.get(name, field.description or ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


class ManifestFields(SphinxDirective):
    """A section for each class of the manifest."""

    def run(self) -> list[nodes.Node]:
        """The nodes that take the directive's place."""
        text = "\n\n".join(section(model) for model in models_of(manifest.Manifest))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("manifest-fields", ManifestFields)
    return {"version": "1", "parallel_read_safe": True}
