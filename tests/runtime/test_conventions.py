"""The picture of the conventions is the one that the code draws today."""

from __future__ import annotations

import runpy

from tests.golden_data import ROOT


def test_picture_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "conventions_picture.py"))
    assert script["draw"]() == (ROOT / "docs" / "conventions.svg").read_text(encoding="utf-8"), (
        "run python docs/conventions_picture.py"
    )
