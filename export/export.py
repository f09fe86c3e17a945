"""`python export/export.py ...` is `covis export ...`, from a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path; there, `export` would be this very file.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from covis.cli import main

    main(["export", *sys.argv[1:]])
