"""What is never run: tampered plans, plans of nobody known, plans of another plugin."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from covis.engines.system.native import PLUGIN_LIBRARY, find_library
from covis.runtime.pipeline import load
from tests.gpu.engine_checks.place import Place, pictures, refusal


def check_tampering(place: Place) -> Any:
    """A plan with one bit turned over, and one of nobody known, are never deserialised."""
    scratch = Path(tempfile.mkdtemp(dir=place.folder))
    copy = Path(shutil.copytree(place.bundle, scratch / "tampered"))
    plan = sorted((copy / "plans").glob("*.plan"), key=lambda p: p.stat().st_size)[0]
    whole = plan.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with refusal(2, "is not what was built"):
        load(copy, place.options())(pictures(copy))
    plan.write_bytes(whole[:-1])
    with refusal(2, "bytes where its record says"):
        load(copy, place.options())(pictures(copy))
    plan.write_bytes(whole)
    with ledger_of_nobody(scratch), refusal(2, "was not built by this user"):
        load(copy, place.options())(pictures(copy))
    return plan.name


def check_plugin(place: Place) -> Any:
    """Plans of another plugin library are refused; so is a library that is none."""
    library = find_library(PLUGIN_LIBRARY, place.plugin)
    assert library is not None
    other = place.folder / library.name
    other.write_bytes(library.read_bytes() + b"\0")
    with refusal(2, "another version of the plugin"):
        load(place.bundle, replace(place, plugin=other).options())(pictures(place.bundle))
    with refusal(2, "no such plugin library|was built|plugin"):
        none = replace(place, plugin=place.folder / "none.so")
        load(place.bundle, none.options())(pictures(place.bundle))
    return library.name


@contextlib.contextmanager
def ledger_of_nobody(folder: Path) -> Iterator[None]:
    """As if this user had built nothing."""
    with mock.patch(
        "covis.engines.tensorrt.plans.trust.ledger", lambda: folder / "no-such-ledger.txt"
    ):
        yield
