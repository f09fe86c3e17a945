"""Where the numbers of the original implementations are: beside the checkout, or here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT

_PLACES = (ROOT.parent / "shared" / "golden", ROOT / "tests" / "golden")


def golden(name: str) -> Path:
    """The golden file of that name; skips the calling test, with the reason, where it is absent."""
    for place in _PLACES:
        if (place / name).is_file():
            return place / name
    pytest.skip(f"golden file {name} is neither in ../shared/golden nor in tests/golden")


def golden_json(name: str) -> dict[str, Any]:
    """The parsed JSON file of that name."""
    record: dict[str, Any] = json.loads(golden(name).read_text())
    return record


def scenes(name: str) -> Path:
    """A folder of real photos; skips where it is absent (they are not ours to publish)."""
    folder = ROOT.parent / "shared" / "scenes" / name
    if not folder.is_dir():
        pytest.skip(f"photos {name} are not in ../shared/scenes")
    return folder


def tolerance(noise: float, reference_max: float) -> float:
    """The project's one rule for "the same in float32".

    Ten times the difference that the original itself shows between float32 and float64, but never
    under 1e-5 of the largest value: summation order alone costs that much.
    """
    return max(10.0 * noise, 1e-5 * reference_max)
