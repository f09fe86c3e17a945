"""Engine checks by name: `-m tests.gpu.engine_checks --work DIR --records FILE NAME...`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu.engine_checks import CHECKS, check
from tests.gpu.engine_checks.place import Place
from tests.gpu.units import run_units


def run_check(name: str, place: Place) -> Any:
    """One check; its module is only imported now, so that a fault in one spares the others."""
    return check(name)(place)


def main() -> None:
    """Run the named checks, and write down how each ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--plugin", type=Path)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    place = Place(options.work, options.plugin)
    units = {name: partial(run_check, name, place) for name in CHECKS}
    run_units(units, options.names, options.records)


if __name__ == "__main__":
    main()
