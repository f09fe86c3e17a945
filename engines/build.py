"""`python -m covis.engines.build` and `python engines/build.py` are `covis build`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path, and holds files named like other packages'.
    if not __package__:
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from covis.cli import main

    main(["build", *sys.argv[1:]])
