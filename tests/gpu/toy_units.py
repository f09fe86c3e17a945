"""Units that end in every way, for tests: `-m tests.gpu.toy_units --records FILE NAME...`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gpu.units import AbsentError, WrongError, run_units


def wrong() -> None:
    """One record of two is not as it must be."""
    raise WrongError([{"case": "b", "ok": False}, {"case": "a", "ok": True}])


def asserts() -> None:
    """An assertion: the process goes on."""
    assert os.getpid() < 0, "toy assertion"


def raises() -> None:
    """Another exception: the process ends."""
    raise RuntimeError("toy error")


def missing() -> None:
    """Something is not installed."""
    raise AbsentError("no such toy")


UNITS: dict[str, Callable[[], Any]] = {
    "first": os.getpid,
    "second": os.getpid,
    "wrong": wrong,
    "asserts": asserts,
    "raises": raises,
    "missing": missing,
    "hangs": lambda: time.sleep(60),
    "crashes": lambda: os._exit(9),
    "last": os.getpid,
}


def main() -> None:
    """Run the named units; what follows a blank in a name is its subject."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    units = {name: UNITS[name.split()[0]] for name in options.names}
    run_units(units, options.names, options.records)


if __name__ == "__main__":
    main()
