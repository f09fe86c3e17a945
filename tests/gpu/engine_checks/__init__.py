"""The checks of engines, in the order of their worth; those that fill the GPU come last."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

# By name, the module that has check_NAME. Names alone: who lists them needs no TensorRT.
CHECKS = {
    "inspect": "commands",
    "scene": "agreement",
    "graphs": "sessions",
    "threads": "sessions",
    "stripped": "agreement",
    "zero_copy": "sessions",
    "plugin": "trust",
    "tampering": "trust",
    "profiles": "limits",
    "bench": "commands",
    "compare": "commands",
    "onnxruntime": "agreement",
    "memory": "limits",
}

STRIPPED = ("encoder", "aggregator")
"""The stages of which `check_stripped` wants plans without their weights."""


def check(name: str) -> Callable[[Any], Any]:
    """A check by name: takes a `Place`, gives its detail, raises where something is wrong."""
    module = importlib.import_module(f"{__name__}.{CHECKS[name]}")
    found: Callable[[Any], Any] = getattr(module, f"check_{name}")
    return found
