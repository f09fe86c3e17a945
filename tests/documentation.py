"""Pages of the documentation as data: their links, fenced blocks and inline code."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.places import ROOT

_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*(\S*).*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ELSEWHERE = re.compile(r"^([a-z]+:|//)")
RUN = "<!-- run -->"


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: Path of the page, relative to the repository.
        line: Number of its first line.
        language: Word behind the opening fence.
        text: Lines between the fences.
        run: Whether `<!-- run -->` stands before it.
    """

    page: str
    line: int
    language: str
    text: str
    run: bool


@cache
def pages() -> dict[str, str]:
    """Every Markdown page and notebook of the repository, as Markdown, by path."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md", "*.ipynb"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    found = {}
    for name in sorted(listed):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            text = path.read_text(encoding="utf-8")
            found[name] = _notebook(text) if path.suffix == ".ipynb" else text
    return found


def _notebook(text: str) -> str:
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(parts)


def blocks(name: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    fence, language, first, inside, before = "", "", 0, [""], ""
    for number, line in enumerate(pages()[name].splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            if match and match[2].startswith(fence) and not match[3]:
                text = "\n".join(inside) + "\n"
                found.append(Block(name, first, language, text, before == RUN))
                fence = ""
            else:
                inside.append(line)
        elif match:
            fence, language, first, inside = match[2], match[3], number + 1, []
        elif line.strip():
            before = line.strip()
    return found


def prose(name: str) -> str:
    """The text of a page without its fenced blocks."""
    fence, lines = "", []
    for line in pages()[name].splitlines():
        match = _FENCE.match(line)
        if fence:
            if match and match[2].startswith(fence) and not match[3]:
                fence = ""
        elif match:
            fence = match[2]
        else:
            lines.append(line)
    return "\n".join(lines)


def inline_code(name: str) -> list[str]:
    """The inline code of a page's prose."""
    return _CODE.findall(prose(name))


def links(name: str) -> Iterator[tuple[str, str]]:
    """(path, anchor) of every link of a page into the repository; an own anchor has no path."""
    for destination in _LINK.findall(_CODE.sub("", prose(name))):
        if not _ELSEWHERE.match(destination):
            path, _, anchor = destination.partition("#")
            yield path, anchor


def target(name: str, path: str) -> Path:
    """The file or folder that a link of a page points to."""
    page = ROOT / name
    return Path(page if not path else (page.parent / path)).resolve()


def anchors(path: Path) -> set[str]:
    """The anchors that a Git host and the site give to the headings of a page."""
    found: set[str] = set()
    headings = re.findall(r"^#{1,6} +(.+)$", prose(path.relative_to(ROOT).as_posix()), re.MULTILINE)
    for heading in headings:
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        slug = words.strip().replace(" ", "-")
        number = 1
        while (name := slug if number == 1 else f"{slug}-{number - 1}") in found:
            number += 1
        found.add(name)
    return found


def shell_lines(block: Block) -> list[str]:
    """The commands of a block: continued lines joined, comments and results left out."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [line.strip() for line in joined.splitlines() if line.strip() and line[:1] != "#"]
