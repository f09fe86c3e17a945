"""The real `tensorrt` module, for tests that hold our words against its own."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


def real_tensorrt() -> ModuleType:
    """The module; skips the calling test, with the reason, where it cannot be imported."""
    try:
        return importlib.import_module("tensorrt")
    except Exception as error:
        pytest.skip(f"the tensorrt module cannot be imported ({error})")
