"""Export torch checkpoints to bundles of ONNX graphs; the only part of covis that needs torch.

Public: `export_bundle` with its `ExportOptions`, and `accelerate` and `restore` for a torch model
of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covis.export.acceleration import Accelerated, accelerate, restore
    from covis.export.exporter import export_bundle
    from covis.export.options import ExportOptions

__all__ = ["Accelerated", "ExportOptions", "accelerate", "export_bundle", "restore"]

_HOME = {
    "Accelerated": "covis.export.acceleration.handle",
    "accelerate": "covis.export.acceleration.handle",
    "ExportOptions": "covis.export.options",
    "export_bundle": "covis.export.exporter",
    "restore": "covis.export.acceleration.handle",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import covis.export` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
