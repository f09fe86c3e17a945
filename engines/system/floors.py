"""Lowest supported versions of other packages, from the metadata of covis."""

from __future__ import annotations

import re
from importlib import metadata


def floor(package: str) -> str | None:
    """Return the lowest supported version of a package, also of extras; None if there is none."""
    try:
        requirements = metadata.requires("covis") or []
    except metadata.PackageNotFoundError:
        return None
    bounds = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement) for requirement in requirements)
    return next((found[2] for found in bounds if found and found[1] == package), None)


def too_old(package: str, version: str) -> str | None:
    """Return the lowest supported version of a package if `version` is below it, else None."""
    lowest = floor(package)
    return lowest if lowest is not None and numbers(version) < numbers(lowest) else None


def numbers(version: str) -> tuple[int, ...]:
    """Parse the release of a version: 2.9.0+cpu is (2, 9, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
