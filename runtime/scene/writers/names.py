"""Names of image files that every reader of a scene folder takes as they are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_LONGEST = 100  # letters; file systems allow 255 bytes, and readers append suffixes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # devices on Windows
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}$")


def safe_names(names: Sequence[str], suffixes: Sequence[str]) -> tuple[str, ...]:
    """Return a file name for each view, without folders: ASCII letters, digits, `_` and `-`.

    COLMAP's text form ends a name at a blank; readers of its binary form decode it byte by byte,
    so that a letter outside ASCII stops them; others look for a name's last part alone, or cut it
    at its first point. The stems differ even where case does not count, because masks, depth images
    and smaller copies are found by the stem. A name that fulfils this already stays as it is.

    Args:
        names: Names of the views, which may contain folders and any characters.
        suffixes: Suffix of each file, with its point.
    """
    plain = [_SUFFIX.sub("", name) for name in names]
    stems = [_safe_stem(stem, index) for index, stem in enumerate(plain)]
    owner: dict[str, int] = {}
    # A view whose name stays as it is comes before the views whose names become equal to it.
    for index in sorted(range(len(names)), key=lambda i: stems[i] != plain[i]):
        owner.setdefault(stems[index].casefold(), index)
    for index, stem in enumerate(stems):
        unique, count = stem, 1
        while owner.setdefault(unique.casefold(), index) != index:
            count += 1
            unique = f"{stem}-{count}"
        stems[index] = unique
    return tuple(stem + suffix for stem, suffix in zip(stems, suffixes, strict=True))


def _safe_stem(stem: str, index: int) -> str:
    """Return the stem in safe letters: accents are dropped, anything else becomes `_`."""
    decomposed = unicodedata.normalize("NFKD", stem)
    letters = "".join(c for c in decomposed if not unicodedata.combining(c))
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", letters).lstrip("-")[:_LONGEST]
    if not re.search(r"[A-Za-z0-9]", safe):
        return f"view_{index:04d}"
    return f"{safe}_" if _RESERVED.fullmatch(safe) else safe
