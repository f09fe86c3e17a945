"""Links between the site and the rest of the repository.

A page's relative links point to files of the repository, so that they also work on a Git host and
in an editor. While the site is built they become

- links to pages, where the target is one, or is included by one (`plugins/.../README.md`);
- links to the source at COVIS_SOURCE_URL, where that variable is set (`.../tree/main`);
- else downloads, for files, and plain text, for folders.

A target that does not exist is a warning, and `make docs` makes an error of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^\s*(```+|~~~+|:::+)")
INCLUDE = re.compile(r"^```\{include\}\s+(\S+)", re.MULTILINE)
URL = re.compile(r"^([a-z]+:|#|//)")

_log = logging.getLogger(__name__)


def included_pages(docs: Path) -> dict[Path, Path]:
    """Files outside `docs` that a page includes, and that page."""
    pages = {}
    for page in sorted(docs.rglob("*.md")):
        for target in INCLUDE.findall(page.read_text(encoding="utf-8")):
            pages[(page.parent / target).resolve()] = page
    return pages


class Links:
    """Rewrites links for one build.

    Attributes:
        docs: Folder of the pages.
        root: Folder of the repository.
        pages: Files that are part of the site under another name, and their pages.
        source: Address of the repository's files on a Git host; empty where there is none.
    """

    def __init__(self, docs: Path, source: str = "") -> None:
        self.docs, self.root, self.source = docs, docs.parent, source.rstrip("/")
        self.pages = included_pages(docs)
        for link in docs.rglob("*"):
            if link.is_symlink():
                self.pages[link.resolve()] = link

    def rewrite(self, text: str, file: Path, page: Path) -> str:
        """The text of `file` with its links as they must be on `page`.

        Both are paths; they differ where a page includes the file, or is a link to it.
        """
        fence = ""
        lines = []
        for line in text.split("\n"):
            opening = FENCE.match(line)
            if opening and not fence:
                fence = opening[1]
            elif fence and line.strip().startswith(fence):
                fence = ""
            elif not fence:
                lines.append(LINK.sub(lambda match: self._link(match, file, page), line))
                continue
            lines.append(line)
        return "\n".join(lines)

    def _link(self, match: re.Match[str], file: Path, page: Path) -> str:
        image, label, destination = match.groups()
        if URL.match(destination):
            return match[0]
        path, mark, anchor = destination.partition("#")
        target = Path(os.path.normpath(file.parent / path))
        if not target.exists():
            name = file.relative_to(self.root)
            _log.warning("%s: link to %s, which does not exist", name, path, type="repository")
            return match[0]
        place = self._page_of(target)
        if place is not None and place.is_symlink():  # Sphinx would look where it points
            docname = place.relative_to(self.docs).with_suffix("").as_posix()
            return f"{{doc}}`{label} </{docname}>`"
        if place is not None or image:
            relative = os.path.relpath(place or target, page.parent)
            return f"{image}[{label}]({Path(relative).as_posix()}{mark}{anchor})"
        if self.source:
            return f"[{label}]({self.source}/{target.relative_to(self.root).as_posix()})"
        if target.is_dir():
            return label
        return f"[{label}]({Path(os.path.relpath(target, page.parent)).as_posix()})"

    def _page_of(self, target: Path) -> Path | None:
        """The page that shows a file or folder, or None where the site has none."""
        for candidate in (target, target / "index.md", target / "README.md"):
            found = self.pages.get(candidate.resolve())
            if found is None and candidate.is_relative_to(self.docs) and candidate.is_file():
                found = candidate
            if found is not None:
                return found
        return None


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    content[0] = app.covis_links.rewrite(content[0], page.resolve(), page)  # type: ignore[attr-defined]


def _read_included(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(app.env.docname))  # MyST gives the parent without its folder
    file = (Path(app.srcdir) / path).resolve()
    content[0] = app.covis_links.rewrite(content[0], file, page)  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    source = os.environ.get("COVIS_SOURCE_URL", "")
    app.covis_links = Links(Path(app.srcdir), source)  # type: ignore[attr-defined]
    app.connect("source-read", _read)
    app.connect("include-read", _read_included)
    return {"version": "1", "parallel_read_safe": True}
