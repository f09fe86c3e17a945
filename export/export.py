"""Run `covis export` from a checkout: `python export/export.py ...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the script's own folder first on the path; the package lies one level higher.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.argv.insert(1, "export")
    runpy.run_module("covis", run_name="__main__", alter_sys=True)
