"""Folders that tests read from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DEMO: Final = ROOT / "covis" / "assets" / "demo"  # the bundle that ships with the package
